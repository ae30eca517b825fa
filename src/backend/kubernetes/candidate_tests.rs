use super::super::election::Elections;
use super::*;
use crate::config::{self, KubernetesEnvironment};

/// Settings by which no API server is reached.
fn nowhere() -> config::Kubernetes {
    let mut settings = config::Kubernetes::new(&KubernetesEnvironment::default());
    settings.connection.host = Some("127.0.0.1:1".into());
    settings
}

/// A candidate of this name.
fn candidate(identity: &str) -> Candidate {
    let election = Elections::default().stand(&nowhere(), "one", "/nonexistent".into());
    let shared = Arc::clone(&election.shared);
    Candidate { shared, identity: identity.to_owned(), own: None, seen: None, has_settled: false }
}

fn lease(holder: &str, renewed: u32, seconds: u64) -> Json {
    json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": renewed.to_string()}})
}

#[test]
fn another_ones_lease_is_taken_once_it_has_stayed_the_same_for_its_time() {
    let (mut candidate, begin) = (candidate("me"), Instant::now());
    let mut at = |second, renewed| candidate.others(&lease("it", renewed, 15), begin + Duration::from_secs(second));
    assert_eq!(at(0, 1), Some(Standing::Open));
    assert_eq!(at(14, 1), Some(Standing::Open));
    assert_eq!(at(15, 1), None);
}

#[test]
fn who_renews_a_lease_lives_and_keeps_it() {
    let (mut candidate, begin) = (candidate("me"), Instant::now());
    let mut at = |second, renewed| candidate.others(&lease("it", renewed, 15), begin + Duration::from_secs(second));
    assert_eq!(at(0, 1), Some(Standing::Open));
    for second in [14, 28, 42] {
        let renewed = u32::try_from(second).unwrap();
        assert_eq!(at(second, renewed), Some(Standing::Other("it".into())));
    }
    assert_eq!(at(56, 42), Some(Standing::Other("it".into())));
    assert_eq!(at(57, 42), None);
}

#[test]
fn a_lease_of_nobodys_or_ones_own_is_taken_at_once() {
    for holder in ["", "me"] {
        assert_eq!(candidate("me").others(&lease(holder, 1, 15), Instant::now()), None);
    }
    assert_eq!(candidate("me").others(&json!({}), Instant::now()), None);
}

#[test]
fn no_lease_is_waited_for_longer_than_a_minute() {
    let (mut candidate, begin) = (candidate("me"), Instant::now());
    let mut at = |second| candidate.others(&lease("it", 1, u64::MAX), begin + Duration::from_secs(second));
    assert_eq!(at(0), Some(Standing::Open));
    assert_eq!(at(59), Some(Standing::Open));
    assert_eq!(at(60), None);
}

#[test]
fn what_was_seen_before_a_failure_does_not_count() {
    let mut candidate = candidate("me");
    assert_eq!(candidate.others(&lease("it", 1, 15), Instant::now()), Some(Standing::Open));
    // Nobody knows what happened meanwhile.
    assert_eq!(candidate.turn(), RETRY);
    assert!(candidate.seen.is_none());
    assert_eq!(*candidate.shared.standing(), Standing::Unknown);
}

#[test]
fn a_server_that_cannot_ask_keeps_what_it_had_only_for_the_leases_time() {
    let election = Elections::default().stand(&nowhere(), "one", "/nonexistent".into());
    let shared = Arc::clone(&election.shared);
    let mut candidate =
        Candidate { shared, identity: "me".into(), own: Some(lease("me", 1, 15)), seen: None, has_settled: true };
    for (until, may) in [(Instant::now() + DURATION, true), (Instant::now(), false)] {
        election.shared.set(Standing::Held(until));
        candidate.turn();
        assert_eq!(election.shared.may_remove(), may);
        election.shared.may_make().unwrap();
    }
    election.shared.set(Standing::Other("it".into()));
    candidate.turn();
    assert!(!election.shared.may_remove());
    let error = election.shared.may_make().unwrap_err().to_string();
    assert!(error.contains("another berth serves as instance \"one\" (lease berth-one, held by it)"), "{error}");
}

#[test]
fn a_new_configuration_for_the_same_place_goes_on_with_the_same_election() {
    let (elections, mut settings) = (Elections::default(), nowhere());
    let first = elections.stand(&settings, "one", "/nonexistent".into());
    settings.pod_start *= 2;
    let same = elections.clone().stand(&settings, "one", "/nonexistent".into());
    assert!(Arc::ptr_eq(&first, &same));
    settings.metadata.insert("namespace".into(), "guests".into());
    let elsewhere = elections.stand(&settings, "one", "/nonexistent".into());
    assert!(!Arc::ptr_eq(&first, &elsewhere));
}

#[test]
fn an_instances_lease_has_a_name_that_the_api_takes() {
    assert_eq!(lease_name("guests"), "berth-guests");
    assert_eq!(lease_name("node-1.example"), "berth-node-1.example");
    let long = "a".repeat(64);
    let others = ["Guests", "a/b", "node-127.0.0.1:2222", "a..b", "a.-b", "a-.b", "-a", "a-", ".a", "a_b", &long];
    let names: std::collections::BTreeSet<String> = others.iter().map(|instance| lease_name(instance)).collect();
    assert_eq!(names.len(), others.len());
    for name in names {
        let hash = name.strip_prefix("berth-").unwrap();
        assert!(hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
}
