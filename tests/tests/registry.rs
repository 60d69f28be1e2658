//! The registry, on a SQLite file and on a real PostgreSQL server: the same rules on both, also
//! when many want the same thing at once.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use sealpost_relay::proof::life::State;
use sealpost_relay::proof::verdict::Verdict;
use sealpost_relay::registry::boxes::State as BoxState;
use sealpost_relay::registry::domains::REST;
use sealpost_relay::registry::follow::Follower;
use sealpost_relay::registry::{Database, Registry, RegistryError, SECONDS_PER_DAY, Snapshot};
use sealpost_tests::postgres::Postgres;
use sealpost_tests::scene::allowed;
use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::request::{DomainState, ProofMethod};
use sealpost_tunnel::{BoxName, DomainName, Identity, MxName, PublicKey};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: u64 = 1_700_000_000;
const DAY: u64 = SECONDS_PER_DAY;

/// A registry of either kind, fresh, and what keeps it there.
struct Fresh {
    database: Arc<Database>,
    url: Option<String>,
    state: tempfile::TempDir,
}

/// One server for all tests of this program; it ends with the program.
static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Fresh {
    async fn sqlite() -> Self {
        let state = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(None, state.path()).await.unwrap());
        Self { database, url: None, state }
    }

    /// `None`, said aloud, where the server cannot be started.
    async fn postgres() -> Option<Self> {
        if !allowed().unwrap() {
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let url = SERVER.create_database(&format!("registry{number}")).unwrap();
        let state = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(Some(&url), state.path()).await.unwrap());
        Some(Self { database, url: Some(url), state })
    }

    /// Another program on the same registry: a second relay, or a command of the operator.
    async fn another(&self) -> Arc<Database> {
        Arc::new(Database::open(self.url.as_deref(), self.state.path()).await.unwrap())
    }

    async fn invite(&self, box_name: &str) -> Secret {
        self.database.invite(&name(box_name), 5, HOUR, NOW).await.unwrap()
    }

    /// A box that joined.
    async fn joined(&self, box_name: &str) -> PublicKey {
        let (secret, key) = (self.invite(box_name).await, key());
        self.database.join(&secret, key, None, NOW).await.unwrap();
        key
    }

    async fn claim(&self, key: PublicKey, domain: &str, at: u64) -> Result<(), RegistryError> {
        self.claim_for(key, domain, &[&format!("mx.{domain}")], at).await
    }

    async fn claim_for(
        &self,
        key: PublicKey,
        domain: &str,
        mx: &[&str],
        at: u64,
    ) -> Result<(), RegistryError> {
        let mx: Vec<MxName> = mx.iter().map(|mx| mx.parse().unwrap()).collect();
        let domain = domain.parse().unwrap();
        self.database.claim(key, &domain, &mx, ProofMethod::Txt, at, at + DAY).await
    }

    /// What a relay that starts now would route.
    async fn routed(&self) -> Arc<Snapshot> {
        let registry = Arc::new(Registry::new(Snapshot::default()));
        Follower::start(self.database.clone(), registry.clone()).await.unwrap();
        registry.snapshot()
    }

    async fn owner(&self, mx: &str) -> Option<PublicKey> {
        self.routed().await.by_mx(&mx.parse().unwrap()).map(|record| record.key)
    }
}

fn key() -> PublicKey {
    Identity::ephemeral().public()
}

fn name(text: &str) -> BoxName {
    text.parse().unwrap()
}

fn domain(text: &str) -> DomainName {
    text.parse().unwrap()
}

/// Runs the same test on both kinds of database.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($fresh:ident) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn test($fresh: Fresh) $body

            #[tokio::test]
            async fn on_sqlite() {
                test(Fresh::sqlite().await).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                if let Some(fresh) = Fresh::postgres().await {
                    test(fresh).await;
                }
            }
        })+
    };
}

on_both! {
    async fn an_invite_brings_one_box_in(fresh) {
        let (secret, alice, mallory) = (fresh.invite("alice").await, key(), key());
        let join = async |key| fresh.database.join(&secret, key, None, NOW).await;
        join(alice).await.unwrap();
        // An answer can be lost: the same box may ask again, nobody else.
        join(alice).await.unwrap();
        assert!(matches!(join(mallory).await, Err(RegistryError::InviteSpent)));
        let routed = fresh.routed().await;
        assert_eq!(routed.by_key(&alice).unwrap().name, "alice");
        assert!(routed.by_key(&mallory).is_none());
        let invites = fresh.database.invites().await.unwrap();
        assert_eq!((invites.len(), invites[0].spent), (1, Some(NOW)));
    }

    async fn invites_that_cannot_be_spent_say_why(fresh) {
        let unknown = fresh.database.join(&Secret::random(), key(), None, NOW).await;
        assert!(matches!(unknown, Err(RegistryError::InviteUnknown)));
        let late = fresh.invite("alice").await;
        let join = async |secret: &Secret, at| fresh.database.join(secret, key(), None, at).await;
        assert!(matches!(join(&late, NOW + 3600).await, Err(RegistryError::InviteExpired)));
        // A newer invite for the same name makes the older one void.
        let newer = fresh.invite("alice").await;
        assert!(matches!(join(&late, NOW).await, Err(RegistryError::InviteUnknown)));
        assert!(fresh.database.withdraw_invite(&name("alice")).await.unwrap());
        assert!(matches!(join(&newer, NOW).await, Err(RegistryError::InviteUnknown)));
        assert!(!fresh.database.withdraw_invite(&name("alice")).await.unwrap());
    }

    async fn names_and_keys_have_one_box(fresh) {
        let alice = fresh.joined("alice").await;
        let again = fresh.database.invite(&name("alice"), 1, HOUR, NOW).await;
        assert!(matches!(again, Err(RegistryError::NameTaken(_))));
        // A key of a box does not become another box, and the invite is not lost by trying.
        let bob = fresh.invite("bob").await;
        let stolen = fresh.database.join(&bob, alice, None, NOW).await;
        assert!(matches!(stolen, Err(RegistryError::KeyTaken)), "{stolen:?}");
        fresh.database.join(&bob, key(), None, NOW).await.unwrap();
    }

    async fn ten_thousand_joins_with_one_invite_have_one_winner(fresh) {
        let secret = fresh.invite("alice").await;
        let (spent, late) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let others: Vec<Arc<Database>> =
            vec![fresh.database.clone(), fresh.another().await, fresh.another().await];
        let mut joins = JoinSet::new();
        for at in 0..10_000 {
            let (database, secret) = (others[at % others.len()].clone(), secret.clone());
            let (spent, late) = (spent.clone(), late.clone());
            joins.spawn(async move {
                let key = key();
                // As a box does: again, as long as the registry only had no time.
                loop {
                    match database.join(&secret, key, None, NOW).await {
                        Ok(()) => return Some(key),
                        Err(RegistryError::InviteSpent) => {
                            spent.fetch_add(1, Ordering::Relaxed);
                            return None;
                        }
                        Err(RegistryError::Unavailable(_)) => late.fetch_add(1, Ordering::Relaxed),
                        Err(other) => panic!("{other}"),
                    };
                }
            });
        }
        let began = Instant::now();
        let winners: Vec<PublicKey> = joins.join_all().await.into_iter().flatten().collect();
        println!("{:?}, {} tries came too late and were repeated", began.elapsed(), late.load(Ordering::Relaxed));
        assert_eq!((winners.len(), spent.load(Ordering::Relaxed)), (1, 9_999));
        let routed = fresh.routed().await;
        assert_eq!(routed.len(), 1);
        assert!(routed.by_key(&winners[0]).is_some());
    }

    async fn a_new_key_takes_the_place_of_the_old_one_for_ever(fresh) {
        let (old, new, third) = (fresh.joined("alice").await, key(), key());
        fresh.claim(old, "example.org", NOW).await.unwrap();
        let rotate = async |from, to| fresh.database.rotate(from, to, NOW).await;
        rotate(old, new).await.unwrap();
        rotate(old, new).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, Some(new));
        assert!(fresh.routed().await.is_retired(&old));
        // A statement of the old key that turns up later is worth nothing, and the old key
        // comes back neither by a rotation nor by an invite.
        assert!(matches!(rotate(old, third).await, Err(RegistryError::UnknownBox)));
        assert!(matches!(rotate(new, old).await, Err(RegistryError::KeyRevoked)));
        let invite = fresh.invite("bob").await;
        let back = fresh.database.join(&invite, old, None, NOW).await;
        assert!(matches!(back, Err(RegistryError::KeyRevoked)));
        // Nor does a key that is somebody else's.
        let bob = fresh.joined("bob").await;
        assert!(matches!(rotate(new, bob).await, Err(RegistryError::KeyTaken)));
    }

    async fn the_recovery_kit_shuts_a_stolen_box_out(fresh) {
        let (stolen, recovery) = (fresh.joined("alice").await, key());
        fresh.claim(stolen, "example.org", NOW).await.unwrap();
        fresh.database.set_recovery(stolen, recovery, None).await.unwrap();
        fresh.database.set_recovery(stolen, recovery, None).await.unwrap();
        // The thief cannot replace the kit without the kit, but can change the key.
        let thief = fresh.database.set_recovery(stolen, key(), None).await;
        assert!(matches!(thief, Err(RegistryError::RecoverySet)));
        let (thiefs, owners) = (key(), key());
        fresh.database.rotate(stolen, thiefs, NOW).await.unwrap();
        fresh.database.recover(recovery, owners, NOW).await.unwrap();
        fresh.database.recover(recovery, owners, NOW).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, Some(owners));
        let routed = fresh.routed().await;
        assert!(routed.is_retired(&stolen) && routed.is_retired(&thiefs));
        let unknown = fresh.database.recover(key(), key(), NOW).await;
        assert!(matches!(unknown, Err(RegistryError::UnknownBox)));
        // With the old kit at hand it can be replaced; then the old one is worth nothing.
        let next = key();
        fresh.database.set_recovery(owners, next, Some(recovery)).await.unwrap();
        let old_kit = fresh.database.recover(recovery, key(), NOW).await;
        assert!(matches!(old_kit, Err(RegistryError::UnknownBox)));
    }

    async fn a_thief_who_makes_a_box_leave_does_not_keep_the_kit_from_bringing_it_back(fresh) {
        let (stolen, recovery, new) = (fresh.joined("alice").await, key(), key());
        fresh.database.set_recovery(stolen, recovery, None).await.unwrap();
        fresh.claim(stolen, "example.org", NOW).await.unwrap();
        let id = fresh.routed().await.by_key(&stolen).unwrap().id;
        fresh.database.leave(stolen, NOW).await.unwrap();
        // Another box that names the same kit, which is no secret, does not get or spoil it.
        let (mallory, invite) = (key(), fresh.invite("mallory").await);
        fresh.database.join(&invite, mallory, Some(recovery), NOW).await.unwrap();
        let entry = fresh.database.box_by_key(mallory).await.unwrap().unwrap();
        assert_eq!(entry.recovery, None);
        let planted = fresh.database.set_recovery(mallory, recovery, None).await;
        assert!(matches!(planted, Err(RegistryError::KeyTaken)));
        for _ in 0..2 {
            fresh.database.recover(recovery, new, NOW + DAY).await.unwrap();
        }
        let record = fresh.routed().await.by_key(&new).cloned().unwrap();
        assert_eq!((record.id, record.name.as_str()), (id, "alice"));
        fresh.claim(new, "example.org", NOW + DAY).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, Some(new));
        let again = fresh.database.rotate(stolen, key(), NOW + DAY).await;
        assert!(matches!(again, Err(RegistryError::UnknownBox)));
    }

    async fn a_revoked_box_stays_out_until_it_is_invited_anew(fresh) {
        let (alice, recovery) = (fresh.joined("alice").await, key());
        fresh.database.set_recovery(alice, recovery, None).await.unwrap();
        fresh.claim(alice, "example.org", NOW).await.unwrap();
        let id = fresh.routed().await.by_key(&alice).unwrap().id;
        for _ in 0..2 {
            assert_eq!(fresh.database.revoke(&name("alice"), NOW).await.unwrap(), alice);
        }
        let routed = fresh.routed().await;
        assert!(routed.is_empty() && routed.is_retired(&alice));
        assert_eq!(fresh.owner("mx.example.org").await, None);
        // Neither its key, nor its kit, nor its domain leads back.
        let new = key();
        let rotated = fresh.database.rotate(alice, new, NOW).await;
        assert!(matches!(rotated, Err(RegistryError::UnknownBox)));
        let recovered = fresh.database.recover(recovery, new, NOW).await;
        assert!(matches!(recovered, Err(RegistryError::UnknownBox)));
        let claimed = fresh.claim(alice, "example.org", NOW).await;
        assert!(matches!(claimed, Err(RegistryError::UnknownBox)));
        let unknown = fresh.database.revoke(&name("nobody"), NOW).await;
        assert!(matches!(unknown, Err(RegistryError::UnknownBox)));
        // Nobody else gets its domain meanwhile; the operator may bring it back.
        let bob = fresh.joined("bob").await;
        let taken = fresh.claim(bob, "example.org", NOW + DAY).await;
        assert!(matches!(taken, Err(RegistryError::NotAvailable(_))));
        let secret = fresh.invite("alice").await;
        fresh.database.join(&secret, new, None, NOW).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, None);
        fresh.claim(new, "example.org", NOW + DAY).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, Some(new));
        assert_eq!(fresh.routed().await.by_key(&new).unwrap().id, id);
    }

    async fn a_box_that_leaves_takes_nothing_and_leaves_its_number(fresh) {
        let alice = fresh.joined("alice").await;
        fresh.claim(alice, "example.org", NOW).await.unwrap();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        fresh.database.assign(&name("alice"), address).await.unwrap();
        let id = fresh.routed().await.by_key(&alice).unwrap().id;
        fresh.database.leave(alice, NOW).await.unwrap();
        let routed = fresh.routed().await;
        assert!(routed.is_empty() && routed.by_address(address).is_none());
        // The name is free for somebody else, who is another box in every way.
        let other = fresh.joined("alice").await;
        let record = fresh.routed().await.by_key(&other).cloned().unwrap();
        assert_ne!(record.id, id);
        let taken = fresh.claim(other, "example.org", NOW + DAY).await;
        assert!(matches!(taken, Err(RegistryError::NotAvailable(_))));
        let all = fresh.database.boxes().await.unwrap();
        assert!(all.iter().any(|entry| entry.state == BoxState::Left && entry.name == format!("alice#{id}")));
    }

    async fn a_domain_has_one_box_and_rests_when_released(fresh) {
        let (alice, bob) = (fresh.joined("alice").await, fresh.joined("bob").await);
        fresh.claim(alice, "example.org", NOW).await.unwrap();
        let taken = |result| matches!(result, Err(RegistryError::NotAvailable(_)));
        assert!(taken(fresh.claim(bob, "example.org", NOW).await));
        // Claimed again, its names are replaced.
        fresh.claim_for(alice, "example.org", &["example.org", "a.example.org"], NOW).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, None);
        assert_eq!(fresh.owner("example.org").await, Some(alice));
        // Bob cannot release what is not his.
        fresh.database.release(bob, &domain("example.org"), NOW).await.unwrap();
        assert_eq!(fresh.owner("example.org").await, Some(alice));
        fresh.database.release(alice, &domain("example.org"), NOW).await.unwrap();
        fresh.database.release(alice, &domain("example.org"), NOW).await.unwrap();
        assert_eq!(fresh.owner("example.org").await, None);
        assert!(taken(fresh.claim(bob, "example.org", NOW + REST - 1).await));
        // Who had it may come back at once, and then leave for good.
        fresh.claim(alice, "example.org", NOW + 5).await.unwrap();
        fresh.database.release(alice, &domain("example.org"), NOW + 9).await.unwrap();
        assert!(taken(fresh.claim(bob, "example.org", NOW + REST + 8).await));
        fresh.claim(bob, "example.org", NOW + REST + 9).await.unwrap();
        assert_eq!(fresh.owner("mx.example.org").await, Some(bob));
    }

    async fn names_above_and_beneath_somebody_elses_domain(fresh) {
        let (alice, bob) = (fresh.joined("alice").await, fresh.joined("bob").await);
        fresh.claim_for(alice, "example.org", &["mx.example.org", "x.b.example.org"], NOW).await.unwrap();
        for beneath in ["mail.example.org", "mx.example.org", "a.b.c.example.org"] {
            let refused = fresh.claim_for(bob, beneath, &[beneath], NOW).await;
            assert!(matches!(refused, Err(RegistryError::NotAvailable(_))), "{beneath}");
        }
        // A name that only ends alike is another.
        fresh.claim(bob, "notexample.org", NOW).await.unwrap();
        // Above: allowed, but nothing at or beneath the other's domain comes with it.
        fresh.claim(bob, "dept.example.net", NOW).await.unwrap();
        for mx in ["dept.example.net", "mx.dept.example.net", "new.dept.example.net"] {
            let refused = fresh.claim_for(alice, "example.net", &["ok.example.net", mx], NOW).await;
            assert!(matches!(refused, Err(RegistryError::MxNotAvailable(_))), "{mx}");
        }
        assert_eq!(fresh.owner("ok.example.net").await, None);
        fresh.claim(alice, "example.net", NOW).await.unwrap();
        assert_eq!(fresh.owner("mx.example.net").await, Some(alice));
        assert_eq!(fresh.owner("mx.dept.example.net").await, Some(bob));
        // One box may have both.
        fresh.claim(alice, "sub.example.org", NOW).await.unwrap();
        // A name must be in the domain that was proved.
        let outside = fresh.claim_for(bob, "notexample.org", &["mx.example.org"], NOW).await;
        assert!(matches!(outside, Err(RegistryError::MxOutside { .. })));
    }

    async fn a_box_has_as_many_domains_as_it_may(fresh) {
        let alice = fresh.joined("alice").await;
        for at in 0..5 {
            fresh.claim(alice, &format!("a{at}.example"), NOW).await.unwrap();
        }
        let more = fresh.claim(alice, "more.example", NOW).await;
        assert!(matches!(more, Err(RegistryError::TooMany(_))));
        fresh.claim(alice, "a0.example", NOW).await.unwrap();
        fresh.database.allow(&name("alice"), 6).await.unwrap();
        fresh.claim(alice, "more.example", NOW).await.unwrap();
        let names: Vec<String> = (0..17).map(|at| format!("m{at}.more.example")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let many = fresh.claim_for(alice, "more.example", &names, NOW).await;
        assert!(matches!(many, Err(RegistryError::TooMany(_))));
    }

    async fn of_many_that_race_for_a_domain_one_wins(fresh) {
        let mut boxes = Vec::new();
        for at in 0..10 {
            boxes.push(fresh.joined(&format!("box{at}")).await);
        }
        let other = fresh.another().await;
        for round in 0..20 {
            let wanted = domain(&format!("race{round}.example"));
            let mx: MxName = format!("mx.race{round}.example").parse().unwrap();
            let mut race = JoinSet::new();
            for (at, &key) in boxes.iter().enumerate() {
                let database = if at % 2 == 0 { fresh.database.clone() } else { other.clone() };
                let (wanted, mx) = (wanted.clone(), mx.clone());
                race.spawn(async move {
                    database.allow(&name(&format!("box{at}")), 100).await.unwrap();
                    let txt = ProofMethod::Txt;
                    database.claim(key, &wanted, &[mx], txt, NOW, NOW).await.is_ok().then_some(key)
                });
            }
            let winners: Vec<PublicKey> = race.join_all().await.into_iter().flatten().collect();
            assert_eq!(winners.len(), 1);
            assert_eq!(fresh.owner(mx_of(round).as_str()).await, Some(winners[0]));
        }
    }

    async fn checks_are_given_out_once_and_their_results_count(fresh) {
        let alice = fresh.joined("alice").await;
        fresh.claim(alice, "example.org", NOW).await.unwrap();
        assert!(fresh.database.due(NOW, 10).await.unwrap().is_empty());
        let (mut at, mut stages) = (NOW + DAY, Vec::new());
        for _ in 0..60 {
            let due = fresh.database.due(at, 10).await.unwrap();
            let Some(due) = due.first().cloned() else { break };
            assert!(fresh.database.due(at, 10).await.unwrap().is_empty(), "given out twice");
            assert_eq!(due.box_key, alice.fingerprint());
            let life = due.life.after(&Verdict::Absent("none".into()), at);
            fresh.database.checked(&due, life, "none", at, at + DAY).await.unwrap();
            stages.push(life.state);
            let routed = fresh.owner("mx.example.org").await.is_some();
            assert_eq!(routed, matches!(life.state, State::Proved | State::Warned));
            let told = fresh.database.domains_of(alice).await.unwrap();
            match life.state {
                State::Warned => {
                    assert_eq!(told[0].state, DomainState::Warned);
                    assert!(told[0].suspends_on.unwrap() > at);
                }
                State::Suspended => assert_eq!(told[0].state, DomainState::Suspended),
                State::Released => assert!(told.is_empty()),
                State::Proved => unreachable!(),
            }
            at += DAY;
        }
        assert!(stages.is_sorted() && stages.last() == Some(&State::Released));
        // Nobody else may have it for 90 days from now.
        let bob = fresh.joined("bob").await;
        assert!(fresh.claim(bob, "example.org", at + REST - 2 * DAY).await.is_err());
        fresh.claim(bob, "example.org", at + REST).await.unwrap();
    }

    async fn a_check_that_a_new_key_overtook_counts_for_nothing(fresh) {
        let (alice, new) = (fresh.joined("alice").await, key());
        fresh.claim(alice, "example.org", NOW).await.unwrap();
        let due = fresh.database.due(NOW + DAY, 1).await.unwrap().remove(0);
        fresh.database.rotate(alice, new, NOW + DAY).await.unwrap();
        let life = due.life.after(&Verdict::Absent("old".into()), NOW + DAY);
        fresh.database.checked(&due, life, "old", NOW + DAY, NOW + 9 * DAY).await.unwrap();
        let told = fresh.database.domains_of(new).await.unwrap();
        assert_eq!((told[0].state, told[0].detail.as_str()), (DomainState::Proved, ""));
    }

    async fn an_address_has_one_box(fresh) {
        let (alice, _bob) = (fresh.joined("alice").await, fresh.joined("bob").await);
        let address: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        fresh.database.assign(&name("alice"), address).await.unwrap();
        fresh.database.assign(&name("alice"), "192.0.2.7".parse().unwrap()).await.unwrap();
        let taken = fresh.database.assign(&name("bob"), address).await.unwrap_err();
        assert!(taken.to_string().contains("belongs to the box `alice`"), "{taken}");
        assert_eq!(fresh.routed().await.by_address(address).unwrap().key, alice);
        assert!(fresh.database.unassign(address).await.unwrap());
        assert!(!fresh.database.unassign(address).await.unwrap());
        let nobody = fresh.database.assign(&name("nobody"), address).await;
        assert!(matches!(nobody, Err(RegistryError::UnknownBox)));
    }

    async fn a_change_of_another_program_is_routed_within_a_second(fresh) {
        let registry = Arc::new(Registry::new(Snapshot::default()));
        let follower = Follower::start(fresh.database.clone(), registry.clone()).await.unwrap();
        let (stop, news) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let follow = tokio::spawn({
            let (stop, news) = (stop.clone(), news.clone());
            async move {
                follower
                    .run(stop, |effects| {
                        let count = effects.changed.len() + effects.gone.len();
                        news.fetch_add(u32::try_from(count).unwrap(), Ordering::Relaxed);
                    })
                    .await;
            }
        });
        sleep(Duration::from_millis(700)).await;
        let other = Fresh { database: fresh.another().await, ..fresh };
        let mut slowest = Duration::ZERO;
        for at in 0..10 {
            let key = other.joined(&format!("box{at}")).await;
            let began = Instant::now();
            while registry.snapshot().by_key(&key).is_none() {
                assert!(began.elapsed() < Duration::from_secs(1));
                sleep(Duration::from_millis(1)).await;
            }
            slowest = slowest.max(began.elapsed());
            other.database.revoke(&name(&format!("box{at}")), NOW).await.unwrap();
            let began = Instant::now();
            while registry.snapshot().by_key(&key).is_some() {
                assert!(began.elapsed() < Duration::from_secs(1));
                sleep(Duration::from_millis(1)).await;
            }
            slowest = slowest.max(began.elapsed());
        }
        println!("slowest of 20 changes: {slowest:?}");
        assert_eq!(news.load(Ordering::Relaxed), 10);
        stop.cancel();
        timeout(Duration::from_secs(5), follow).await.unwrap().unwrap();
    }
}

fn mx_of(round: usize) -> MxName {
    format!("mx.race{round}.example").parse().unwrap()
}
