use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_600_000 + seconds).unwrap()
}

fn uid(text: &str) -> PodUid {
    PodUid::try_from(text).unwrap()
}

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
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
    let verify = |pod: &str, dialect, now| verify(&ring, &token, pod, dialect, now);
    assert_eq!(verify("a", Dialect::Ec2, 0), Ok(60));
    assert_eq!(verify("a", Dialect::Ec2, 59), Ok(1));
    assert_eq!(verify("a", Dialect::Ec2, 60), Err(TokenError::Expired));
    assert_eq!(verify("a", Dialect::Ec2, 100_000), Err(TokenError::Expired));
    assert_eq!(verify("b", Dialect::Ec2, 0), Err(TokenError::OtherPod));
    assert_eq!(verify("a", Dialect::Ecs, 0), Err(TokenError::OtherDialect));
}

#[test]
fn clock_set_back_does_not_extend_a_token() {
    let ring = ring(1);
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(1000)).unwrap();
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
}

#[test]
fn replaced_key_verifies_for_six_hours() {
    let old = ring(1);
    let token = old.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, at(0)).unwrap();
    let new = old.rotated(Zeroizing::new([2; 32]), at(10));
    let verify = |ring: &Keyring, now| verify(ring, &token, "a", Dialect::Ec2, now);
    assert!(verify(&new, 21_599).is_ok());
    let later = new.rotated(Zeroizing::new([3; 32]), at(21_700));
    assert_eq!(verify(&later, 21_701), Err(TokenError::Unknown));
    assert_eq!(later.keys.len(), 2);
}

#[test]
fn keys_from_a_file_verify_tokens() {
    let before = ring(1).rotated(Zeroizing::new([2; 32]), at(5));
    let token = before.issue(&uid("a"), Dialect::Ecs, ttl(60), at(6)).unwrap();
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
    let token = other.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
    let own = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
    let body = own.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
    let cut = own.get(..own.len() - 1).unwrap();
    let flipped = format!("{}{}", cut, if own.ends_with('A') { 'B' } else { 'A' });
    for bad in [token.as_str(), none.as_str(), cut, "", ".", "..", &flipped, &"a".repeat(600), &own.repeat(2)] {
        assert_eq!(verify(&ring, bad, "a", Dialect::Ec2, 0), Err(TokenError::Unknown), "{bad}");
    }
}

#[test]
fn repeated_token_is_verified_again() {
    let (ring, last) = (ring(1), LastToken::default());
    let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
    let verify = |ring: &Keyring, token: &str, pod: &str, dialect, now| {
        ring.verify(token.as_bytes(), &last, &uid(pod), dialect, at(now))
    };
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 1), Ok(59));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 60), Err(TokenError::Expired));
    assert_eq!(verify(&ring, &token, "b", Dialect::Ec2, 1), Err(TokenError::OtherPod));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ecs, 1), Err(TokenError::OtherDialect));
    assert_eq!(verify(&ring, &token[1..], "a", Dialect::Ec2, 1), Err(TokenError::Unknown));
    assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 1), Ok(59));
    let other = self::ring(2);
    assert_eq!(verify(&other, &token, "a", Dialect::Ec2, 1), Err(TokenError::Unknown), "its key was removed");
}

#[test]
fn repeated_token_is_rejected_once_its_key_no_longer_verifies() {
    let (ring, last) = (ring(1), LastToken::default());
    let token = ring.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, at(20)).unwrap();
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
