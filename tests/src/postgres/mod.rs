//! A real PostgreSQL server, Debian's, that a test starts, crashes, freezes and starves.
//!
//! Its processes live in a PID and IPC namespace of their own, so that the kernel ends all of
//! them in one step: that is [`Postgres::kill`], and what happens when the test is dropped or
//! killed. Its files are seen from everywhere; only its network may be that of a machine.

mod processes;
mod programs;
mod template;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::processes::Processes;
use self::programs::{Programs, output};
use crate::keeper::Keeper;
use crate::machine::Machine;
use crate::small_disk::SmallDisk;
use crate::wait::wait_until;

/// The role that [`Postgres::url`] names. It owns the databases and is no superuser.
pub const ROLE: &str = "sealpost";
/// Its password. Loopback is not asked for it.
pub const PASSWORD: &str = "sealed-post";

/// Recovery after a crash included, with both cores busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints its name, and takes it away in the end.
const DIRECTORY: &str = r#"
directory=$(mktemp -d -t sealpost-postgres.XXXXXX)
echo "$directory"
cat >/dev/null
# A killed test takes the server away only while this runs, and that may still write.
until rm -rf "$directory" 2>/dev/null; do sleep 0.1; done
"#;

/// See the module's text. Fields are dropped in order: the server before its files.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Processes>,
    disk: Option<SmallDisk>,
    _directory: Keeper,
    directory: PathBuf,
    programs: Programs,
    network: Option<PathBuf>,
    listen: Vec<String>,
    port: u16,
}

impl Postgres {
    /// Starts a server on this machine's loopback.
    pub fn start() -> Result<Postgres> {
        Postgres::prepare(&["127.0.0.1"], free_port()?, None, None)?.started()
    }

    /// Starts a server in a machine's network, on port 5432 of the machine's addresses in
    /// `listen` and of its loopback. The first address is the one in [`Postgres::url`].
    pub fn start_in(machine: &Machine, listen: &[&str]) -> Result<Postgres> {
        let network = PathBuf::from(format!("/proc/{}/ns/net", machine.pid()));
        let listen = [listen, &["127.0.0.1"]].concat();
        Postgres::prepare(&listen, 5432, Some(network), None)?.started()
    }

    /// Starts a server on this machine's loopback whose data lie on a disk of so many
    /// megabytes, which can be full. A fresh server needs 40.
    pub fn start_on_small_disk(megabytes: u32) -> Result<Postgres> {
        let disk = SmallDisk::new(megabytes)?;
        Postgres::prepare(&["127.0.0.1"], free_port()?, None, Some(disk))?.started()
    }

    fn prepare(
        listen: &[&str],
        port: u16,
        network: Option<PathBuf>,
        disk: Option<SmallDisk>,
    ) -> Result<Postgres> {
        let programs = Programs::find()?;
        let (keeper, directory) = Keeper::of_script(DIRECTORY, &[]).context("make a directory")?;
        let directory = PathBuf::from(directory);
        programs.hand_over(&directory)?;
        let mut listen: Vec<String> = listen.iter().map(|&address| address.to_owned()).collect();
        listen.dedup();
        let postgres = Postgres {
            server: None,
            disk,
            _directory: keeper,
            directory,
            programs,
            network,
            listen,
            port,
        };
        template::fill(&postgres.programs, &postgres.data())?;
        Ok(postgres)
    }

    fn started(mut self) -> Result<Postgres> {
        self.restart()?;
        Ok(self)
    }

    /// Starts the server again, as it was left, and waits until it accepts. Stops it first if
    /// it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let mut line = self.programs.line("postgres");
        line.extend(["-D".into(), self.data().into()]);
        for setting in self.settings() {
            line.extend(["-c".into(), setting.into()]);
        }
        self.server = Some(Processes::start(self.network.as_deref(), &self.log_file(), &line)?);
        wait_until("PostgreSQL to accept connections", PATIENCE, || {
            ensure!(self.is_running()?, "PostgreSQL has ended; its log:\n{}", self.log());
            Ok(self.accepts())
        })
    }

    fn settings(&self) -> [String; 10] {
        [
            format!("listen_addresses={}", self.listen.join(",")),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.directory.display()),
            "fsync=on".to_owned(),
            "shared_buffers=16MB".to_owned(),
            "max_connections=50".to_owned(),
            // The compiler is another package, and queries of a test are over before it began.
            "jit=off".to_owned(),
            // In the data directory: /dev/shm would keep what a killed server had there.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "timezone=GMT".to_owned(),
            "log_timezone=GMT".to_owned(),
        ]
    }

    /// What a program is given to use the database `name` as [`ROLE`].
    pub fn url(&self, database: &str) -> String {
        let host = &self.listen[0];
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("postgres://{ROLE}:{PASSWORD}@{host}:{}/{database}", self.port)
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database that belongs to [`ROLE`], and returns its URL.
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\" OWNER {ROLE}"))?;
        Ok(self.url(name))
    }

    /// Runs SQL as superuser; otherwise like [`psql_at`].
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let host = self.directory.display();
        let port = self.port;
        let place = format!("host={host} port={port} user=postgres dbname={database}");
        psql(&self.programs, &place, sql)
    }

    /// Whether it takes connections. Waits two seconds for one that does not answer at all.
    pub fn accepts(&self) -> bool {
        let mut ready = self.programs.command("pg_isready");
        ready.args(["-q", "-t", "2", "-p", &self.port.to_string(), "-h"]).arg(&self.directory);
        ready.status().is_ok_and(|status| status.success())
    }

    /// Whether the server runs. One that could not write its log of changes has ended itself.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.server {
            Some(server) => server.is_running(),
            None => Ok(false),
        }
    }

    /// A crash: all processes are gone at once, nothing is flushed, no goodbye is said. Returns
    /// when nothing of them is left.
    pub fn kill(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Ends the server as an operator does: connections are cut, everything is on disk.
    pub fn stop(&mut self) -> Result<()> {
        if self.is_running()? {
            self.thaw()?;
            if let Some(server) = &mut self.server {
                server.signal_first("INT")?;
            }
            wait_until("PostgreSQL to stop", PATIENCE, || Ok(!self.is_running()?))?;
        }
        self.kill()
    }

    /// Stops all processes in their tracks: connections stay, and nothing answers.
    pub fn freeze(&self) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), Processes::freeze)
    }

    /// Ends what [`Postgres::freeze`] began.
    pub fn thaw(&self) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), Processes::thaw)
    }

    /// Fills the disk of [`Postgres::start_on_small_disk`].
    pub fn fill_disk(&self) -> Result<()> {
        self.disk.as_ref().context("this server has no small disk")?.fill()
    }

    /// Ends what [`Postgres::fill_disk`] began. The server may have ended over it
    /// ([`Postgres::is_running`]); then [`Postgres::restart`] it, as an operator would.
    pub fn free_disk(&self) -> Result<()> {
        self.disk.as_ref().context("this server has no small disk")?.free()
    }

    /// What the server wrote to its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The directory with everything that this server has, its small disk excepted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The numbers of all its processes, as this machine counts them.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.server.as_ref().map_or(Ok(Vec::new()), Processes::all)
    }

    fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or(&*self.directory, SmallDisk::path).join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }
}

/// Runs SQL at the server of a URL and returns the rows, one a line with `|` between columns.
/// Fails at the first error, and when the server does not answer within seconds. The network is
/// that of the calling thread: within [`Machine::enter`] any machine may ask.
pub fn psql_at(url: &str, sql: &str) -> Result<String> {
    psql(&Programs::find()?, url, sql)
}

fn psql(programs: &Programs, place: &str, sql: &str) -> Result<String> {
    let mut psql = programs.command("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", place, "-c", sql]);
    output(psql.env("PGCONNECT_TIMEOUT", "5").stdin(Stdio::null()))
}

/// A port that stays free while the server is down: below those that the kernel gives to
/// connections, and picked at random, because other tests pick theirs at the same moment.
fn free_port() -> Result<u16> {
    use std::hash::{BuildHasher, RandomState};
    for attempt in 0..100_u32 {
        let port = 20_000 + (RandomState::new().hash_one(attempt) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no free port between 20000 and 32000")
}
