//! The registry when its database is killed, frozen or has no room: what was answered holds, what
//! was not can be repeated, and routing never stops.
//!
//! `SEALPOST_CYCLES=100 cargo test -p sealpost-tests --test registry_faults -- --nocapture` kills
//! the server a hundred times and prints figures; the usual run makes do with fewer.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealpost_relay::registry::follow::Follower;
use sealpost_relay::registry::{Database, Registry, RegistryError, Snapshot};
use sealpost_tests::postgres::Postgres;
use sealpost_tests::scene::allowed;
use sealpost_tests::small_disk::SmallDisk;
use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::{BoxName, Identity, PublicKey};
use sqlx::{Connection, Executor};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: u64 = 1_700_000_000;
/// Boxes that nobody touches, and that must be routed all the time.
const STEADY: usize = 20;

/// A relay as far as the registry goes: it routes, and follows the database.
struct Relay {
    database: Arc<Database>,
    registry: Arc<Registry>,
    follower: Arc<Follower>,
}

impl Relay {
    async fn start(url: Option<&str>, state: &std::path::Path, stop: &CancellationToken) -> Self {
        let database = Arc::new(Database::open(url, state).await.unwrap());
        let registry = Arc::new(Registry::new(Snapshot::default()));
        let follower = Arc::new(Follower::start(database.clone(), registry.clone()).await.unwrap());
        let (running, stop) = (follower.clone(), stop.clone());
        tokio::spawn(async move { running.run(stop, |_| {}).await });
        Self { database, registry, follower }
    }
}

/// What the load was told.
#[derive(Default)]
struct Told {
    /// Who was told that an invite was spent for it.
    joined: Mutex<HashMap<String, Vec<PublicKey>>>,
    /// Boxes whose revocation was confirmed.
    revoked: Mutex<Vec<PublicKey>>,
    changes: AtomicU64,
    failures: AtomicU64,
    looks: AtomicU64,
    misses: AtomicU64,
}

fn name(text: &str) -> BoxName {
    text.parse().unwrap()
}

/// As an operator or a box does it: again, until there is an answer that counts, or the end.
macro_rules! until_answered {
    ($told:expr, $stop:expr, $try:expr) => {
        loop {
            if $stop.is_cancelled() {
                break None;
            }
            match $try.await {
                Err(RegistryError::Unavailable(_)) => {
                    $told.failures.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(20)).await;
                }
                answer => {
                    $told.changes.fetch_add(1, Ordering::Relaxed);
                    break Some(answer);
                }
            }
        }
    };
}

/// Invites, three who want each invite, and now and then a revocation.
async fn load(at: usize, relays: Arc<Vec<Relay>>, told: Arc<Told>, stop: CancellationToken) {
    let database = &relays[at % relays.len()].database;
    for round in 0.. {
        let box_name = format!("l{at}-{round}");
        let wanted = name(&box_name);
        let Some(secret) = until_answered!(told, stop, database.invite(&wanted, 1, HOUR, NOW))
        else {
            return;
        };
        let Ok(secret) = secret else { continue };
        let mut wanting = JoinSet::new();
        for other in 0..3 {
            let (relays, told, stop) = (relays.clone(), told.clone(), stop.clone());
            let (secret, box_name): (Secret, _) = (secret.clone(), box_name.clone());
            wanting.spawn(async move {
                let key = Identity::ephemeral().public();
                let database = &relays[other % relays.len()].database;
                let joined = until_answered!(told, stop, database.join(&secret, key, None, NOW));
                if let Some(Ok(())) = joined {
                    told.joined.lock().unwrap().entry(box_name).or_default().push(key);
                    return Some(key);
                }
                None
            });
        }
        let winner = wanting.join_all().await.into_iter().flatten().next();
        if let (Some(key), true) = (winner, round % 2 == 0)
            && let Some(Ok(revoked)) = until_answered!(told, stop, database.revoke(&wanted, NOW))
        {
            assert_eq!(revoked, key);
            told.revoked.lock().unwrap().push(key);
        }
    }
}

/// Looks all the time whether the steady boxes are routed by every relay.
async fn watch(
    steady: Vec<PublicKey>,
    relays: Arc<Vec<Relay>>,
    told: Arc<Told>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        for relay in relays.iter() {
            let routed = relay.registry.snapshot();
            for key in &steady {
                told.looks.fetch_add(1, Ordering::Relaxed);
                if routed.by_key(key).is_none() {
                    told.misses.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Lets `trouble` happen while two relays are under load, then looks what holds.
async fn endure(url: Option<&str>, state: &std::path::Path, trouble: impl AsyncFnOnce()) {
    let (stop, stop_relays) = (CancellationToken::new(), CancellationToken::new());
    let relays = Arc::new(vec![
        Relay::start(url, state, &stop_relays).await,
        Relay::start(url, state, &stop_relays).await,
    ]);
    let told = Arc::new(Told::default());
    let mut steady = Vec::new();
    for at in 0..STEADY {
        let key = Identity::ephemeral().public();
        let database = &relays[0].database;
        let secret = database.invite(&name(&format!("steady{at}")), 1, HOUR, NOW).await.unwrap();
        database.join(&secret, key, None, NOW).await.unwrap();
        steady.push(key);
    }
    sleep(Duration::from_secs(2)).await;
    let mut tasks = JoinSet::new();
    for at in 0..4 {
        tasks.spawn(load(at, relays.clone(), told.clone(), stop.clone()));
    }
    tasks.spawn(watch(steady.clone(), relays.clone(), told.clone(), stop.clone()));
    trouble().await;
    // The rest of the load must come through by itself.
    sleep(Duration::from_secs(3)).await;
    let before = told.changes.load(Ordering::Relaxed);
    timeout(Duration::from_secs(30), async {
        while told.changes.load(Ordering::Relaxed) < before + 20 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("changes go on after the trouble");
    stop.cancel();
    tasks.join_all().await;
    timeout(Duration::from_secs(30), judge(&relays, &told)).await.expect("relays catch up");
    stop_relays.cancel();
}

async fn judge(relays: &[Relay], told: &Told) {
    // Followed to the end.
    let newest = relays.iter().map(|relay| *relay.database.made().borrow()).max().unwrap();
    for relay in relays {
        relay.registry.reached(newest).await;
        assert!(relay.follower.trouble().is_none());
    }
    let joined = told.joined.lock().unwrap().clone();
    let revoked = told.revoked.lock().unwrap().clone();
    let twice: Vec<_> = joined.values().filter(|winners| winners.len() > 1).collect();
    assert!(twice.is_empty(), "spent twice: {twice:?}");
    // One that starts now reads everything.
    let registry = Arc::new(Registry::new(Snapshot::default()));
    Follower::start(relays[0].database.clone(), registry.clone()).await.unwrap();
    let live = relays.iter().map(|relay| relay.registry.snapshot());
    for routed in live.chain([registry.snapshot()]) {
        for key in &revoked {
            assert!(routed.by_key(key).is_none() && routed.is_retired(key), "not revoked");
        }
        for (name, keys) in &joined {
            let known = routed.by_key(&keys[0]).is_some_and(|record| record.name == *name);
            assert!(known || routed.is_retired(&keys[0]), "{name} was told that it joined");
        }
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} changes confirmed, {} tries failed and were repeated; {} invites spent, none twice; \
         {} revocations, all hold; {} of {} looks at steady boxes found no route",
        count(&told.changes),
        count(&told.failures),
        joined.len(),
        revoked.len(),
        count(&told.misses),
        count(&told.looks),
    );
    assert_eq!(count(&told.misses), 0);
    assert!(count(&told.looks) > 1000 && !revoked.is_empty());
}

fn cycles() -> u32 {
    std::env::var("SEALPOST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_loses_nothing() {
    if !allowed().unwrap() {
        return;
    }
    let mut server = Postgres::start().unwrap();
    let url = server.create_database("registry").unwrap();
    let state = tempfile::tempdir().unwrap();
    let began = Instant::now();
    endure(Some(&url), state.path(), async || {
        for _ in 0..cycles() {
            sleep(Duration::from_millis(400)).await;
            server.kill().unwrap();
            sleep(Duration::from_millis(100)).await;
            tokio::task::block_in_place(|| server.restart()).unwrap();
        }
    })
    .await;
    println!("{} times killed and started again, {:?}", cycles(), began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_frozen_makes_changes_fail_and_routes_go_on() {
    if !allowed().unwrap() {
        return;
    }
    let server = Postgres::start().unwrap();
    let url = server.create_database("registry").unwrap();
    let state = tempfile::tempdir().unwrap();
    endure(Some(&url), state.path(), async || {
        sleep(Duration::from_millis(500)).await;
        server.freeze().unwrap();
        let other = Database::open(Some(&url), state.path());
        // A start waits for its registry; it does not hang for ever either.
        assert!(timeout(Duration::from_secs(15), other).await.is_err());
        server.thaw().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_makes_changes_fail_and_routes_go_on() {
    if !allowed().unwrap() {
        return;
    }
    let mut server = Postgres::start_on_small_disk(80).unwrap();
    let url = server.create_database("registry").unwrap();
    let state = tempfile::tempdir().unwrap();
    endure(Some(&url), state.path(), async || {
        sleep(Duration::from_secs(1)).await;
        server.fill_disk().unwrap();
        sleep(Duration::from_secs(3)).await;
        server.free_disk().unwrap();
        // Without room for its log the server ends itself.
        if !server.is_running().unwrap() {
            tokio::task::block_in_place(|| server.restart()).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_room_makes_changes_fail_and_routes_go_on() {
    if !allowed().unwrap() {
        return;
    }
    let disk = SmallDisk::new(24).unwrap();
    endure(None, disk.path(), async || {
        sleep(Duration::from_secs(1)).await;
        disk.fill().unwrap();
        sleep(Duration::from_secs(3)).await;
        disk.free().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_somebody_locks_makes_changes_fail_in_time() {
    let state = tempfile::tempdir().unwrap();
    let database = Database::open(None, state.path()).await.unwrap();
    // As a backup or a curious operator might.
    let file = format!("sqlite://{}", state.path().join("registry.sqlite").display());
    let mut locker = sqlx::AnyConnection::connect(&file).await.unwrap();
    locker.execute("BEGIN IMMEDIATE").await.unwrap();
    let began = Instant::now();
    let refused = database.invite(&name("alice"), 1, HOUR, NOW).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains("repeating is safe"), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(9));
    let registry = Arc::new(Registry::new(Snapshot::default()));
    // Reading goes on beside a lock.
    Follower::start(Arc::new(database), registry).await.unwrap();
    locker.execute("ROLLBACK").await.unwrap();
    let again = Database::open(None, state.path()).await.unwrap();
    again.invite(&name("alice"), 1, HOUR, NOW).await.unwrap();
}
