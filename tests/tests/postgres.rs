//! The PostgreSQL and the small disk of the harness do what scenarios rely on.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::machine::Machine;
use sealpost_tests::postgres::{Postgres, psql_at};
use sealpost_tests::scene::allowed;
use sealpost_tests::small_disk::SmallDisk;
use sealpost_tests::wait::wait_until;

const SOON: Duration = Duration::from_secs(10);

/// Set for the process that [`nothing_is_left_of_a_killed_test`] kills.
const VICTIM: &str = "SEALPOST_TEST_VICTIM";

#[test]
fn a_crash_keeps_what_was_committed_and_nothing_else() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let mut postgres = Postgres::start()?;
    let url = postgres.create_database("crash")?;
    psql_at(&url, "CREATE TABLE kept (number int)")?;
    for cycle in 1..=3 {
        psql_at(&url, &format!("INSERT INTO kept VALUES ({cycle})"))?;
        let processes = postgres.processes()?;
        ensure!(processes.len() > 5, "{processes:?}");
        let open = "BEGIN; INSERT INTO kept VALUES (0); SELECT pg_sleep(60); COMMIT";
        thread::scope(|scope| -> Result<()> {
            let client = scope.spawn(|| psql_at(&url, open));
            let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            wait_until("the open transaction", SOON, || {
                Ok(postgres.psql("postgres", count)?.trim() == "1")
            })?;
            postgres.kill()?;
            let cut = client.join().ok().context("the client panicked")?;
            ensure!(cut.is_err_and(|error| error.to_string().contains("closed the connection")));
            Ok(())
        })?;
        ensure!(processes.iter().all(|&pid| !runs(pid)), "some of {processes:?} still run");
        ensure!(!postgres.is_running()? && !postgres.accepts());
        postgres.restart()?;
        let kept = postgres.psql("crash", "SELECT count(*), min(number), max(number) FROM kept")?;
        assert_eq!(kept.trim(), format!("{cycle}|1|{cycle}"));
    }
    ensure!(postgres.log().contains("automatic recovery in progress"), "{}", postgres.log());
    Ok(())
}

#[test]
fn a_stop_is_no_crash() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let mut postgres = Postgres::start()?;
    postgres.stop()?;
    ensure!(!postgres.accepts() && postgres.processes()?.is_empty());
    postgres.restart()?;
    postgres.restart()?;
    assert_eq!(postgres.psql("postgres", "SELECT 1; SELECT 2")?, "1\n2\n");
    ensure!(postgres.log().contains("received fast shutdown request"), "{}", postgres.log());
    ensure!(!postgres.log().contains("recovery"), "{}", postgres.log());
    Ok(())
}

#[test]
fn a_frozen_server_does_not_answer_until_it_thaws() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let mut postgres = Postgres::start()?;
    let url = postgres.create_database("frozen")?;
    postgres.freeze()?;
    ensure!(!postgres.accepts() && postgres.is_running()?);
    thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| psql_at(&url, "SELECT 'late'"));
        thread::sleep(Duration::from_millis(300));
        ensure!(!client.is_finished(), "a frozen server has answered");
        postgres.thaw()?;
        assert_eq!(client.join().ok().context("the client panicked")??, "late\n");
        Ok(())
    })?;
    postgres.freeze()?;
    postgres.kill()?;
    postgres.restart()
}

#[test]
fn a_full_disk_is_an_error_that_passes() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let mut postgres = Postgres::start_on_small_disk(80)?;
    let url = postgres.create_database("full")?;
    psql_at(&url, "CREATE TABLE big (text text); INSERT INTO big VALUES ('before')")?;
    postgres.fill_disk()?;
    let rows = "INSERT INTO big SELECT repeat(md5(i::text), 30) FROM generate_series(1, 3000) i";
    let error = psql_at(&url, rows).err().context("there was room on a full disk")?;
    ensure!(error.to_string().contains("No space left on device"), "{error:#}");
    postgres.free_disk()?;
    if !postgres.is_running()? {
        postgres.restart()?;
    }
    psql_at(&url, rows)?;
    assert_eq!(psql_at(&url, "SELECT count(*) FROM big")?, "3001\n");
    Ok(())
}

#[test]
fn other_machines_reach_it_with_the_password_only() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let nothing = std::env::temp_dir();
    let database = Machine::start("database", &[], &nothing)?;
    let relay = Machine::start("relay", &[], &nothing)?;
    let pid = relay.pid();
    let status = Command::new("nsenter")
        .arg(format!("--target={}", database.pid()))
        .args(["--net", "ip", "link", "add", "eth0", "type", "veth"])
        .args(["peer", "name", "eth0", "netns", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "link the machines");
    for (machine, address) in [(&database, "10.30.0.1/24"), (&relay, "10.30.0.2/24")] {
        machine.run(&format!("ip address add {address} dev eth0\nip link set eth0 up"))?;
    }
    let postgres = Postgres::start_in(&database, &["10.30.0.1"])?;
    let url = postgres.create_database("registry")?;
    ensure!(url.ends_with("@10.30.0.1:5432/registry"), "{url}");
    assert_eq!(relay.enter(|| psql_at(&url, "SELECT inet_client_addr()"))?, "10.30.0.2\n");
    let wrong = url.replacen("sealed", "opened", 1);
    let error = relay.enter(|| psql_at(&wrong, "SELECT 1")).err().context("any password")?;
    ensure!(error.to_string().contains("password authentication failed"), "{error:#}");
    ensure!(psql_at(&url, "SELECT 1").is_err(), "this machine is not on that network");
    Ok(())
}

#[test]
fn a_small_disk_is_full_and_free_and_gone() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let disk = SmallDisk::new(1)?;
    let path = disk.path().to_path_buf();
    disk.fill()?;
    let error = fs::write(path.join("more"), "more").err().context("there was room")?;
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    disk.free()?;
    disk.free()?;
    fs::write(path.join("more"), "more")?;
    drop(disk);
    ensure!(!path.exists());

    let machine = Machine::start("small", &[], &std::env::temp_dir())?;
    // A machine's number is known a moment before its root is in place.
    wait_until("the machine's root", SOON, || Ok(machine.path("/opt/sealpost").exists()))?;
    let disk = SmallDisk::in_machine(&machine, "/var/lib/sealpost", 1)?;
    disk.fill()?;
    let error = machine.run("cp /etc/passwd /var/lib/sealpost").err().context("room")?;
    ensure!(error.to_string().contains("No space left on device"), "{error:#}");
    disk.free()?;
    machine.run("cp /etc/passwd /var/lib/sealpost")?;
    Ok(())
}

#[test]
fn nothing_is_left_of_a_dropped_server() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    // Processes of the start come and go for a moment after it answers.
    let began = std::time::Instant::now();
    let processes = loop {
        let processes = postgres.processes()?;
        if processes.len() > 5 && processes.iter().all(|&pid| runs(pid)) {
            break processes;
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "{processes:?} do not all run");
        thread::sleep(Duration::from_millis(20));
    };
    let directory = postgres.directory().to_path_buf();
    ensure!(directory.join("data").exists());
    drop(postgres);
    ensure!(processes.iter().all(|&pid| !runs(pid)), "some of {processes:?} still run");
    ensure!(!directory.exists());
    Ok(())
}

/// The test runs itself once more, as the one that is killed.
#[test]
fn nothing_is_left_of_a_killed_test() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    if std::env::var_os(VICTIM).is_some() {
        let disk = SmallDisk::new(1)?;
        let postgres = Postgres::start_on_small_disk(80)?;
        postgres.freeze()?;
        let (disk, directory) = (disk.path().display(), postgres.directory().display());
        println!("\nvictim {disk} {directory} {:?}", postgres.processes()?);
        loop {
            thread::park();
        }
    }
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--exact", "nothing_is_left_of_a_killed_test", "--nocapture"])
        .env(VICTIM, "yes")
        .stdout(Stdio::piped())
        .spawn()?;
    let told = BufReader::new(victim.stdout.take().context("no output")?)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("victim ").map(str::to_owned));
    victim.kill()?;
    victim.wait()?;
    let told = told.context("the victim did not start")?;
    let mut words = told.splitn(3, ' ');
    let mut path = || words.next().map(PathBuf::from).context("a path");
    let (disk, directory) = (path()?, path()?);
    let processes: Vec<u32> = serde_json::from_str(words.next().context("processes")?)?;
    ensure!(processes.len() > 5, "{told}");
    wait_until("everything of a killed test to vanish", SOON, || {
        Ok(!disk.exists() && !directory.exists() && !processes.iter().any(|&pid| runs(pid)))
    })
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
