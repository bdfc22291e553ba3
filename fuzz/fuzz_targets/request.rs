#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podmeta_tests::fuzz::target::request(input));
