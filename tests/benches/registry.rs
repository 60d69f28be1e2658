//! What a big registry costs a relay: time to read it at the start, memory of the snapshot, and
//! time from a change to the routes. On a SQLite file and on a real PostgreSQL server.
//!
//! `cargo bench -p sealpost-tests --bench registry -- [BOXES]`

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sealpost_relay::pairs::PairRoles;
use sealpost_relay::registry::follow::Follower;
use sealpost_relay::registry::{Database, Registry, Snapshot};
use sealpost_tests::postgres::Postgres;
use sealpost_tunnel::{BoxName, MxName};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Boxes that are made in one statement.
const BATCH: u64 = 2_000;
/// Changes whose way to the routes is measured.
const CHANGES: usize = 101;
/// Lookups in one measurement.
const LOOKUPS: u64 = 1_000_000;

fn main() {
    let count = std::env::args().filter_map(|a| a.parse().ok()).next_back().unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let state = tempfile::tempdir().unwrap();
        println!("SQLite:");
        measure(None, state.path(), count).await;
        let server = Postgres::start().unwrap();
        let url = server.create_database("registry").unwrap();
        println!("PostgreSQL:");
        measure(Some(&url), state.path(), count).await;
    });
}

async fn measure(url: Option<&str>, state: &Path, count: u64) {
    let database = Arc::new(Database::open(url, state).await.unwrap());
    let file = format!("sqlite://{}", state.join("registry.sqlite").display());
    fill(url.unwrap_or(&file), count).await;

    let before = memory();
    let began = Instant::now();
    let empty = Snapshot::empty("2001:db8:1:2::/64".parse().ok(), None, PairRoles::default());
    let registry = Arc::new(Registry::new(empty));
    let follower = Follower::start(database.clone(), registry.clone()).await.unwrap();
    let (took, after) = (began.elapsed(), memory());
    let known = registry.snapshot();
    println!(
        "  {} boxes with {} names read in {took:.2?}; {:.1} MB more, {:.0} bytes a box",
        known.len(),
        count + count / 2,
        (after - before) as f64 / 1e6,
        (after - before) as f64 / count as f64
    );
    look_up(&known, count);
    drop(known);

    let stop = CancellationToken::new();
    let follow = tokio::spawn({
        let stop = stop.clone();
        async move { follower.run(stop, |_| {}).await }
    });
    // Another program makes the changes, as an operator's command or another relay does.
    let other = Database::open(url, state).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let mut ways = Vec::new();
    for at in 0..CHANGES {
        let name: BoxName = format!("b{}", at + 1).parse().unwrap();
        let revision = registry.snapshot().revision();
        other.assign(&name, format!("198.51.100.{at}").parse().unwrap()).await.unwrap();
        let began = Instant::now();
        registry.reached(revision + 1).await;
        ways.push(began.elapsed());
        // Anywhere between two looks at the revision.
        sleep(Duration::from_millis(7 * at as u64 % 500)).await;
    }
    ways.sort();
    println!(
        "  from a commit of another program to the routes: median {:.2?}, slowest of {CHANGES} {:.2?}",
        ways[CHANGES / 2],
        ways[CHANGES - 1]
    );
    stop.cancel();
    follow.await.unwrap();
    let began = Instant::now();
    let again = Arc::new(Registry::new(Snapshot::default()));
    Follower::start(database, again).await.unwrap();
    println!("  read once more, as at a restart: {:.2?}", began.elapsed());
}

fn look_up(known: &Snapshot, count: u64) {
    let names: Vec<MxName> = (1..=1_000)
        .map(|at| format!("mx.d{}.example", at * count / 1_000).parse().unwrap())
        .collect();
    let began = Instant::now();
    let mut found = 0;
    for at in 0..LOOKUPS {
        found += u64::from(known.by_mx(&names[at as usize % names.len()]).is_some());
    }
    assert_eq!(found, LOOKUPS);
    println!("  a name is found in {:.0} ns", began.elapsed().as_nanos() as f64 / LOOKUPS as f64);
}

/// Boxes 1 to `count`, each with one domain; every second has two names. Written as SQL, because
/// a hundred thousand joins one after the other would measure the disk.
async fn fill(url: &str, count: u64) {
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    for first in (1..=count).step_by(BATCH as usize) {
        let (mut boxes, mut domains, mut names) = (String::new(), String::new(), String::new());
        for at in first..(first + BATCH).min(count + 1) {
            let id = 255 + at;
            let key = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
            write!(boxes, "({id},'b{at}','ed25519:{key}','active',5,19000,2),").unwrap();
            write!(domains, "('d{at}.example',{id},'txt','proved',1,1,0,'',1,2000000000),")
                .unwrap();
            write!(names, "('mx.d{at}.example','d{at}.example'),").unwrap();
            if at % 2 == 0 {
                write!(names, "('d{at}.example','d{at}.example'),").unwrap();
            }
        }
        for (table, columns, rows) in [
            ("boxes", "id,name,key,state,domains_allowed,created_day,revision", boxes),
            (
                "domains",
                "name,box,method,state,since,checked,failures,detail,proved,next_check",
                domains,
            ),
            ("mx_names", "name,domain", names),
        ] {
            let rows = rows.trim_end_matches(',');
            let sql = format!("INSERT INTO {table} ({columns}) VALUES {rows}");
            connection.execute(AssertSqlSafe(sql)).await.unwrap();
        }
    }
    let next = 256 + count;
    let sql = format!("UPDATE registry SET revision = 2, next_box = {next}");
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// Resident memory of this process, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
