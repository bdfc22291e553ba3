//! Invalid edits of a profile, and its last valid generation.

use super::*;

#[test]
fn invalid_edit_keeps_the_last_valid_generation() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    apply(&mut state, StateUpdate::Profile(Box::new(invalid("web", 2))));
    assert_eq!(dialects(&state), Some((true, false)));
    let (reference, _, observed) = state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((reference.generation, observed.generation, observed.errors.len()), (2, 2, 1));
    assert_eq!(observed.pods.len(), 1);
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 3, ", priority: 3"))));
    assert!(state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2.errors.is_empty());
}

/// Returns an invalid generation of `web` whose status holds a valid one.
fn invalid_update(generation: i64, last_valid: i64, observed_generation: i64) -> StateUpdate {
    let mut object = invalid("web", generation);
    let valid = profile("web", last_valid, "").spec.unwrap();
    let last_valid = Some(valid.written.clone());
    let observed_generation = Some(observed_generation);
    object.status = Some(MetadataProfileStatus { observed_generation, last_valid, ..Default::default() });
    if let Err(invalid) = &mut object.spec {
        invalid.last_valid = Some(valid);
    }
    StateUpdate::Profile(Box::new(object))
}

fn last_valid(state: &OperatorState) -> Option<i64> {
    let observed = state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    observed.last_valid.map(|last| last.generation)
}

#[test]
fn new_replica_serves_the_last_valid_generation_of_the_status() {
    let mut state = new_state();
    apply(&mut state, invalid_update(4, 2, 4));
    assert_eq!((dialects(&state), last_valid(&state)), (Some((true, false)), Some(2)));
}

#[test]
fn replica_serves_the_newest_valid_generation_until_the_leader_has_chosen() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 5, ""))));
    apply(&mut state, invalid_update(6, 2, 4));
    assert_eq!(last_valid(&state), Some(5), "the status is not about the sixth generation");
    apply(&mut state, invalid_update(6, 2, 6));
    assert_eq!(last_valid(&state), Some(2), "the leader has chosen the second generation");
}

#[test]
fn unreadable_last_valid_generation_stays_in_the_status() {
    let mut state = new_state();
    let mut unreadable = invalid("web", 3);
    let last_valid = Some(LastValid { generation: 2, spec: "of another version".into() });
    unreadable.status = Some(MetadataProfileStatus { last_valid: last_valid.clone(), ..Default::default() });
    apply(&mut state, StateUpdate::Profile(Box::new(unreadable)));
    let observed = state.observe(&key("web"), Timestamp::UNIX_EPOCH).unwrap().2;
    assert_eq!((observed.last_valid, observed.has_valid_generation), (last_valid, false));
}

#[test]
fn profile_that_was_never_valid_denies_its_pods() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("low", 1, ", priority: -1"))));
    apply(&mut state, StateUpdate::Profile(Box::new(invalid("web", 1))));
    assert_eq!(dialects(&state), Some((false, false)));
    apply(&mut state, StateUpdate::ProfileDeleted(key("web")));
    assert_eq!(dialects(&state), Some((true, false)));
    assert!(state.observe(&key("web"), Timestamp::UNIX_EPOCH).is_none());
}
