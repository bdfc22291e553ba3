use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_600_000 + seconds).unwrap()
}

fn uid(text: &str) -> PodUid {
    PodUid::try_from(text).unwrap()
}

const NONCE: Nonce = [3; 16];

fn ring(byte: u8) -> Keyring {
    Keyring::new(Zeroizing::new([byte; 32]), at(0))
}

fn ttl(seconds: i64) -> TokenTtl {
    TokenTtl::try_from(seconds).unwrap()
}

/// Verifies on a new connection.
fn verify(ring: &Keyring, token: &str, pod: &str, dialect: Dialect, now: i64) -> Result<u32, TokenError> {
    ring.verify(token.as_bytes(), &LastToken::default(), &uid(pod), dialect, at(now))
}

#[test]
fn token_is_valid_for_its_pod_and_dialect_until_it_expires() {
    let ring = ring(1);
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(0)).unwrap();
    let verify = |pod: &str, dialect, now| verify(&ring, &token, pod, dialect, now);
    assert_eq!(verify("a", Dialect::Ec2, 0), Ok(60));
    assert_eq!(verify("a", Dialect::Ec2, 59), Ok(1));
    assert_eq!(verify("a", Dialect::Ec2, 60), Err(TokenError::Expired));
    assert_eq!(verify("a", Dialect::Ec2, 100_000), Err(TokenError::Expired));
    assert_eq!(verify("b", Dialect::Ec2, 0), Err(TokenError::Unknown));
    assert_eq!(verify("a", Dialect::Ecs, 0), Err(TokenError::Unknown));
}

/// The length does not depend on the pod, because the token contains neither UID nor dialect.
#[test]
fn token_has_56_url_safe_characters_for_every_pod() {
    for pod in ["a", "0b1d6f0a-52c4-4a30-8f2e-5d9a3c7e1001", &"f".repeat(64)] {
        for dialect in Dialect::ALL {
            let token = ring(1).issue(&uid(pod), dialect, TokenTtl::MAX, NONCE, at(0)).unwrap();
            assert_eq!(token.len(), TOKEN_LENGTH, "{pod} {dialect}");
            assert!(token.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'), "{token}");
            assert_eq!(verify(&ring(1), &token, pod, dialect, 0), Ok(21_600));
        }
    }
}

#[test]
fn token_has_the_documented_layout() {
    let ring = ring(1);
    let token = ring.issue(&uid("a"), Dialect::Ecs, ttl(300), NONCE, at(0)).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let (claims, mac) = bytes.split_at(26);
    assert_eq!(
        claims,
        [&ring.current.id[..], &1_767_600_300_u32.to_be_bytes(), &300_u16.to_be_bytes(), &NONCE].concat()
    );
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]), &[claims, b"ecs/a"].concat());
    assert_eq!(mac, &tag.as_ref()[..16]);
}

#[test]
fn tokens_of_two_nonces_differ_and_are_valid() {
    let ring = ring(1);
    let tokens = [[1; 16], [2; 16]].map(|nonce| ring.issue(&uid("a"), Dialect::Ec2, ttl(60), nonce, at(0)).unwrap());
    assert_ne!(tokens[0], tokens[1]);
    for token in tokens {
        assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
    }
}

#[test]
fn token_with_a_changed_byte_is_rejected() {
    let ring = ring(1);
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(0)).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for (position, bit) in (0..bytes.len()).flat_map(|position| (0..8).map(move |bit| (position, bit))) {
        let mut changed = bytes.clone();
        changed[position] ^= 1 << bit;
        let changed = URL_SAFE_NO_PAD.encode(changed);
        assert_eq!(verify(&ring, &changed, "a", Dialect::Ec2, 0), Err(TokenError::Unknown), "bit {bit} of {position}");
    }
}

/// The MAC input of one pod and dialect is not that of another one.
#[test]
fn token_is_not_valid_for_a_pod_whose_name_continues_the_dialect() {
    let ring = ring(1);
    let token = ring.issue(&uid("ec2-a"), Dialect::Ec2, ttl(60), NONCE, at(0)).unwrap();
    for pod in ["a", "-a", "ec2", "ec2-", "ec2-a-"] {
        assert_eq!(verify(&ring, &token, pod, Dialect::Ec2, 0), Err(TokenError::Unknown), "{pod}");
    }
}

/// A JWT of an earlier release, with a valid signature of the same key.
#[test]
fn jwt_of_an_earlier_release_is_rejected() {
    let encode = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header = encode(r#"{"typ":"JWT","alg":"HS256","kid":"72cd6e84"}"#.to_owned());
    let (iat, exp) = (at(0).as_second(), at(60).as_second());
    let claims = encode(format!(r#"{{"sub":"a","aud":"ec2","iat":{iat},"exp":{exp}}}"#));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]), format!("{header}.{claims}").as_bytes());
    let token = format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert_eq!(verify(&ring(1), &token, "a", Dialect::Ec2, 0), Err(TokenError::Unknown));
}

#[test]
fn token_needs_a_clock_between_1970_and_2106() {
    let issue = |now: i64| ring(1).issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, Timestamp::from_second(now).unwrap());
    let last = i64::from(u32::MAX) - 60;
    assert!(issue(last).is_ok());
    assert_eq!(issue(last + 1), Err(ClockError));
    assert_eq!(issue(-61), Err(ClockError));
}

#[test]
fn clock_set_back_does_not_extend_a_token() {
    let ring = ring(1);
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(1000)).unwrap();
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
}

#[test]
fn token_issued_more_than_six_hours_in_the_future_is_expired() {
    let ring = ring(1);
    let issue = |now| ring.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(now)).unwrap();
    assert_eq!(verify(&ring, &issue(21_600), "a", Dialect::Ec2, 0), Ok(60));
    let (token, last) = (issue(21_601), LastToken::default());
    let verify = |now| ring.verify(token.as_bytes(), &last, &uid("a"), Dialect::Ec2, at(now));
    assert_eq!(verify(0), Err(TokenError::Expired));
    assert_eq!(verify(1), Ok(60));
    assert_eq!(verify(0), Err(TokenError::Expired), "a repeated token");
}

#[test]
fn key_created_more_than_six_hours_in_the_future_does_not_verify() {
    let ring = Keyring::new(Zeroizing::new([1; 32]), at(21_601));
    let token = ring.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, NONCE, at(0)).unwrap();
    let verify = |ring: &Keyring, now| verify(ring, &token, "a", Dialect::Ec2, now);
    assert_eq!(verify(&ring, 0), Err(TokenError::Unknown));
    assert!(verify(&ring, 1).is_ok());
    assert_eq!(ring.rotated(Zeroizing::new([2; 32]), at(0)).keys().count(), 1, "the rotation drops it");
}

#[test]
fn key_replaced_more_than_six_hours_in_the_future_does_not_verify() {
    let old = ring(1);
    let token = old.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, NONCE, at(0)).unwrap();
    let new = Keyring { current: ring(2).current, ..old.rotated(Zeroizing::new([3; 32]), at(21_601)) };
    assert_eq!(verify(&new, &token, "a", Dialect::Ec2, 0), Err(TokenError::Unknown));
    assert!(verify(&new, &token, "a", Dialect::Ec2, 1).is_ok());
}

#[test]
fn replaced_key_verifies_for_six_hours() {
    let old = ring(1);
    let token = old.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, NONCE, at(0)).unwrap();
    let new = old.rotated(Zeroizing::new([2; 32]), at(10));
    let verify = |ring: &Keyring, now| verify(ring, &token, "a", Dialect::Ec2, now);
    assert!(verify(&new, 21_599).is_ok());
    let later = new.rotated(Zeroizing::new([3; 32]), at(21_700));
    assert_eq!(verify(&later, 21_701), Err(TokenError::Unknown));
    assert_eq!(later.keys().count(), 2);
}

#[test]
fn keys_from_a_file_verify_tokens() {
    let before = ring(1).rotated(Zeroizing::new([2; 32]), at(5));
    let token = before.issue(&uid("a"), Dialect::Ecs, ttl(60), NONCE, at(6)).unwrap();
    let after = Keyring::from_json(&before.to_json().unwrap()).unwrap();
    assert_eq!(verify(&after, &token, "a", Dialect::Ecs, 7), Ok(59));
    assert_eq!(after.created(), at(5));
    for bad in ["", "[]", "{}", r#"[{"bytes":"AA==","made":"2026-01-05T08:00:00Z"}]"#] {
        assert!(Keyring::from_json(bad).is_err(), "{bad}");
    }
}

#[test]
fn token_without_a_signature_of_the_keyring_is_rejected() {
    let (ring, other) = (ring(1), ring(9));
    let token = other.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(0)).unwrap();
    let own = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(0)).unwrap();
    let cut = own.get(..own.len() - 1).unwrap();
    let padded = format!("{own}=");
    let standard = "+/".repeat(TOKEN_LENGTH / 2);
    for bad in [token.as_str(), cut, "", ".", &padded, &standard, &"A".repeat(TOKEN_LENGTH), &own.repeat(2)] {
        assert_eq!(verify(&ring, bad, "a", Dialect::Ec2, 0), Err(TokenError::Unknown), "{bad}");
    }
}

#[test]
fn repeated_token_is_verified_again() {
    let (ring, last) = (ring(1), LastToken::default());
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), NONCE, at(0)).unwrap();
    let verify = |ring: &Keyring, token: &str, pod: &str, dialect, now| {
        ring.verify(token.as_bytes(), &last, &uid(pod), dialect, at(now))
    };
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 1), Ok(59));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 60), Err(TokenError::Expired));
    assert_eq!(verify(&ring, &token, "b", Dialect::Ec2, 1), Err(TokenError::Unknown));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ecs, 1), Err(TokenError::Unknown));
    assert_eq!(verify(&ring, &token[1..], "a", Dialect::Ec2, 1), Err(TokenError::Unknown));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 1), Ok(59));
    let other = self::ring(2);
    assert_eq!(verify(&other, &token, "a", Dialect::Ec2, 1), Err(TokenError::Unknown), "its key was removed");
}

#[test]
fn repeated_token_is_rejected_once_its_key_no_longer_verifies() {
    let (ring, last) = (ring(1), LastToken::default());
    let token = ring.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, NONCE, at(20)).unwrap();
    let ring = ring.rotated(Zeroizing::new([2; 32]), at(10));
    let verify = |now| ring.verify(token.as_bytes(), &last, &uid("a"), Dialect::Ec2, at(now));
    assert!(verify(10 + 21_599).is_ok());
    assert_eq!(verify(10 + 21_600), Err(TokenError::Unknown));
}

#[test]
fn debug_output_does_not_contain_keys() {
    let shown = format!("{:?}", ring(7));
    assert!(!shown.contains("07, 07") && !shown.contains("BwcH"), "{shown}");
}

#[test]
fn error_of_a_malformed_key_file_does_not_contain_its_values() {
    for text in [r#"["s3cret"]"#, r#"[{"bytes": ["s3cret"]}]"#, r#"[{"bytes": "", "made": "s3cret"}]"#] {
        let error = Keyring::from_json(text).err().unwrap();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(shown.contains("line") && !shown.contains("s3cret"), "{shown}");
        }
    }
}
