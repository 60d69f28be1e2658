//! Our name server beside NSD and Knot: questions a second and processor time a question on one core,
//! for what is asked of mail zones, for names that do not exist and for a zone with 10,000 names, all
//! signed and asked with the DO bit; memory with 10,000 zones; the time until 100,000 are served; and
//! whether a zone that is replaced costs a question its answer.
//!
//! Each round asks all servers, in turn first, middle and last, for some seconds each; ratios are of
//! pairs within a round. Ours is the program `sealpost-dns`, started with zones that it kept (for the
//! replacing of zones it is the engine and its sockets alone); it makes cookies and counts against rate
//! limits, which are so high that one client does not reach them. The servers have the first processor
//! and who asks the second. Rounds in which the host took processors away are shown and not counted.
//!
//! `cargo bench -p sealpost-dns --bench authority -- [ROUNDS] [speed] [memory] [load] [swap]`

mod asking;
#[path = "../../tests/judges/master_file.rs"]
mod master_file;
#[path = "../../tests/judges/ours.rs"]
mod ours;
mod processes;
mod servers;
mod zones;

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sealpost_tests::name_server::Signer;
use sealpost_tests::processors::Processors;

use crate::servers::{Kind, Prepared, Server, Swapped};
use crate::zones::Mix;

/// How long one server is asked in one round.
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 7;
/// Rounds in which the host took more of the processors' time are not counted.
const TAKEN_AT_MOST: f64 = 0.03;
/// So many rounds are tried for each that shall count.
const PATIENCE: usize = 4;
/// Processors of the server and of who asks.
const SERVER: usize = 0;
const CLIENT: usize = 1;
/// A socket's buffer may overflow when a processor is away for a moment. A server that limits its
/// responses, or that drops what is too much, has not answered.
const LOST_AT_MOST: u64 = 200;
/// Zones for memory, and for the time of loading.
const MANY: usize = 10_000;
const VERY_MANY: usize = 100_000;
/// Between two replacements of a zone.
const BETWEEN_SWAPS: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [servers::SERVE, list] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return servers::serve(Path::new(list));
    }
    // Cargo adds `--bench`.
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(ROUNDS);
    let named: Vec<&str> = words
        .iter()
        .map(|word| word.as_str())
        .filter(|word| word.parse::<usize>().is_err())
        .collect();
    let wanted = |what: &str| named.is_empty() || named.contains(&what);
    ensure!(std::thread::available_parallelism()?.get() > CLIENT, "this takes two processors");
    sealpost_daemon::open_files::raise();
    let signer = Signer::new()?;
    if wanted("speed") {
        speed(&signer, rounds)?;
    }
    if wanted("swap") {
        swap()?;
    }
    if wanted("memory") {
        memory(&signer)?;
    }
    if wanted("load") {
        load(&signer)?;
    }
    Ok(())
}

/// Of one server in one round.
#[derive(Debug, Clone, Copy)]
struct Speed {
    per_second: f64,
    /// Microseconds of the server's processor time a question.
    cost: f64,
    /// How much of its processor the server used, from 0 to 1. Where that is little, who asks was too slow.
    busy: f64,
}

fn speed(signer: &Signer, rounds: usize) -> Result<()> {
    let zones = Prepared::new(zones::for_speed(signer)?)?;
    let servers = Kind::ALL
        .map(|kind| Ok((kind, Server::start(kind, &zones, SERVER)?)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for mix in Mix::SPEED {
        let mut questions = mix.questions()?;
        let mut counted: Vec<Vec<Speed>> = Vec::new();
        for round in 0..rounds * PATIENCE {
            if counted.len() == rounds {
                break;
            }
            let host = Processors::now()?;
            let mut speeds = vec![None; servers.len()];
            for at in 0..servers.len() {
                let at = (at + round) % servers.len();
                speeds[at] = Some(measure(&servers[at].1, &mut questions)?);
            }
            let taken = host.taken_since()?;
            let speeds: Vec<Speed> = speeds.into_iter().flatten().collect();
            print!("{}, round {}:", mix.name(), round + 1);
            for ((kind, _), speed) in servers.iter().zip(&speeds) {
                let Speed { per_second, cost, busy } = speed;
                let busy = busy * 100.0;
                print!(" {} {per_second:.0}/s {cost:.2} µs busy {busy:.0} %;", kind.name());
            }
            println!(" the host took {:.0} %", taken * 100.0);
            if taken <= TAKEN_AT_MOST {
                counted.push(speeds);
            }
        }
        ensure!(!counted.is_empty(), "the host left no round in peace; come again later");
        report(mix, &servers, &counted);
    }
    Ok(())
}

fn measure(server: &Server, questions: &mut [Vec<u8>]) -> Result<Speed> {
    let before = processes::processor_time(server.pid())?;
    let measured = asking::run(server.address(), questions, ROUND, CLIENT)?;
    let used = processes::processor_time(server.pid())? - before;
    ensure!(measured.good == measured.answered, "other answers than asked for: {measured:?}");
    let lost = measured.asked - measured.answered;
    ensure!(lost <= LOST_AT_MOST, "questions without answers: {measured:?}");
    let cost = used.as_secs_f64() / measured.answered as f64;
    Ok(Speed {
        per_second: measured.per_second,
        cost: cost * 1e6,
        busy: cost * measured.per_second,
    })
}

fn report(mix: Mix, servers: &[(Kind, Server)], rounds: &[Vec<Speed>]) {
    println!("== {}, {} rounds: median (from, to)", mix.name(), rounds.len());
    for (at, (kind, _)) in servers.iter().enumerate() {
        let of = |what: &dyn Fn(&[Speed]) -> f64| spread(rounds.iter().map(|round| what(round)));
        let per_second = of(&|round| round[at].per_second);
        let cost = of(&|round| round[at].cost);
        // NSD is the first.
        let ratio = of(&|round| round[at].per_second / round[0].per_second);
        let cheaper = of(&|round| round[0].cost / round[at].cost);
        println!(
            "{:>5}: {:.0}/s ({:.0}, {:.0}); {:.2} µs ({:.2}, {:.2}); of NSD's speed x{:.3} ({:.3}, {:.3}); \
             NSD's cost by its own x{:.3} ({:.3}, {:.3})",
            kind.name(),
            per_second[1],
            per_second[0],
            per_second[2],
            cost[1],
            cost[0],
            cost[2],
            ratio[1],
            ratio[0],
            ratio[2],
            cheaper[1],
            cheaper[0],
            cheaper[2]
        );
    }
}

/// The smallest, the median and the largest.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn memory(signer: &Signer) -> Result<()> {
    for (what, zones) in
        [("small", zones::small(MANY)?), ("signed mail", zones::many(signer, MANY)?)]
    {
        let zones = Prepared::new(zones)?;
        let mut first = None;
        for kind in Kind::ALL {
            let server = Server::start(kind, &zones, SERVER)?;
            // For what only the start needed.
            sleep(Duration::from_secs(1));
            let octets = processes::memory(server.pid())? as f64;
            let nsd = *first.get_or_insert(octets);
            let (mebibytes, ratio) = (octets / 1048576.0, octets / nsd);
            println!("{MANY} {what} zones: {} {mebibytes:.1} MiB, x{ratio:.2} of NSD", kind.name());
        }
    }
    Ok(())
}

fn load(signer: &Signer) -> Result<()> {
    let zones = Prepared::new(zones::many(signer, VERY_MANY)?)?;
    for kind in Kind::ALL {
        let began = Instant::now();
        let server = Server::start(kind, &zones, SERVER)?;
        let took = began.elapsed();
        let mebibytes = processes::memory(server.pid())? / 1048576;
        println!(
            "{VERY_MANY} signed mail zones: {} serves them after {:.1} s, with {mebibytes} MiB",
            kind.name(),
            took.as_secs_f64()
        );
    }
    Ok(())
}

/// Replaces one zone again and again while it is asked for.
fn swap() -> Result<()> {
    let zones = zones::small(MANY)?;
    let mut server = Swapped::start(&zones, SERVER)?;
    let address = server.address();
    let mut questions = Mix::Swapped.questions()?;
    let (measured, swaps) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| asking::run(address, &mut questions, ROUND, CLIENT));
        let mut serial = 1;
        while !asking.is_finished() {
            serial += 1;
            server.swap(serial)?;
            sleep(BETWEEN_SWAPS);
        }
        let measured = asking.join().ok().context("asking failed")??;
        anyhow::Ok((measured, serial - 1))
    })?;
    println!("one of {MANY} zones replaced {swaps} times: {measured:?}");
    ensure!(measured.asked == measured.good, "questions without their answers: {measured:?}");
    Ok(())
}
