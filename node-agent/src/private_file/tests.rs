use super::*;

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Two agents in two containers have the process ID 1.
#[test]
fn writers_with_the_same_process_id_do_not_share_a_temporary_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    let write = |byte: u8| {
        let path = path.clone();
        move || {
            for _ in 0..50 {
                replace(&path, &[byte; 4096]).unwrap();
                let read = fs::read(&path).unwrap();
                assert!(read.len() == 4096 && read.iter().all(|other| *other == read[0]), "a mixed file");
            }
        }
    };
    let writers = [b'a', b'b'].map(|byte| std::thread::spawn(write(byte)));
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(names(directory.path()), ["state.json"]);
}
