//! One machine of a test network: its own network, processes and files, made of namespaces.
//!
//! A holder process is the machine's PID 1. It does nothing but read from a pipe whose other
//! end the test holds, so the kernel takes the whole machine down (processes, mounts, links)
//! when the test drops it and just as much when the test is killed. Nothing has to be swept.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::packages::CACHE;

/// Run in new mount and network namespaces: $1 an empty directory, $2 the directory with
/// Sealpost's programs, shown as /opt/sealpost, then the layers, the topmost first.
///
/// Only /usr and /etc are taken over from the machine outside (the layers cannot be laid over
/// the whole of it, since they lie in it); /var comes from the layers, all else is empty.
const BOOT: &str = r#"
set -e
base=$1 programs=$2
shift 2
usr= etc=
for layer; do
    usr=$usr$layer/usr:
    [ ! -d "$layer/etc" ] || etc=$etc$layer/etc:
done
mount -t tmpfs -o mode=755 machine "$base"
cd "$base"
mkdir usr usr-work etc etc-work root
cd root
mkdir dev etc home opt opt/sealpost proc root run tmp usr var var/log var/tmp
chmod 1777 tmp var/tmp
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
ln -s ../run var/run
mount -t overlay -o "lowerdir=$usr/usr,upperdir=$base/usr,workdir=$base/usr-work" usr usr
mount -t overlay -o "lowerdir=$etc/etc,upperdir=$base/etc,workdir=$base/etc-work" etc etc
for layer; do
    [ ! -d "$layer/var" ] || cp -a "$layer/var" .
done
mount --rbind /dev dev
mount --bind "$programs" opt/sealpost
ip link set lo up
exec unshare --pid --fork --kill-child sh -c '
set -e
read -r pid rest < /proc/self/stat   # /proc is still that of the world outside
mount -t proc proc proc
exec chroot . sh -c "echo $pid; while read -r line; do :; done"
'
"#;

/// See the module's text. Dropping it ends everything that runs in it.
#[derive(Debug)]
pub struct Machine {
    name: String,
    pid: u32,
    holder: Child,
    lifeline: Option<ChildStdin>,
}

impl Machine {
    /// Starts a machine whose programs are those of this machine and those in `layers`. `programs` appears as `/opt/sealpost`.
    pub fn start(name: &str, layers: &[PathBuf], programs: &Path) -> Result<Machine> {
        let mount_point = Path::new(CACHE).join("machine");
        fs::create_dir_all(&mount_point)?;
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c", BOOT, "boot"])
            .arg(&mount_point)
            .arg(programs)
            .args(layers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let lifeline = holder.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Ok(pid) = line.trim().parse() else {
            let status = holder.wait()?;
            bail!("machine {name} did not start ({status}); it needs the rights of root");
        };
        Ok(Machine { name: name.to_owned(), pid, holder, lifeline })
    }

    /// The name that log tails and failures use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// PID 1 of this machine as the world outside numbers it; links are moved in by it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where a file of this machine is found from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// The file's text, nothing if there is no such file (yet).
    pub fn read(&self, inside: &str) -> String {
        fs::read(self.path(inside))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Writes a file, and the directories above it.
    pub fn write(&self, inside: &str, contents: &str) -> Result<()> {
        let path = self.path(inside);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, contents).with_context(|| format!("{}: write {inside}", self.name))
    }

    /// A command that will run in this machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid))
            .args(["--mount", "--net", "--pid", "--root", "--wd", program])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script to its end and returns what it printed; fails when it does.
    pub fn run(&self, script: &str) -> Result<String> {
        self.attempt(script)?.expect(0)
    }

    /// Runs a shell script to its end, whatever that is.
    pub fn attempt(&self, script: &str) -> Result<Ended> {
        let output = self.command("sh").args(["-ec", script]).output()?;
        Ok(Ended {
            what: format!("{}: {script}", self.name),
            code: output.status.code(),
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            complained: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs `work` on a thread that lives in this machine's network. Sockets made there stay
    /// in it, so a test can be a client or a server of its own on any machine.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.pid))?;
        let entered = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&network, CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
        });
        match entered {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    what: String,
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub printed: String,
    /// What it wrote to its standard error.
    pub complained: String,
}

impl Ended {
    /// Demands that exit code, and returns what it printed.
    pub fn expect(self, code: i32) -> Result<String> {
        let Ended { what, printed, complained, .. } = &self;
        ensure!(
            self.code == Some(code),
            "{what}\nexit code {:?}, not {code}\n{printed}{complained}",
            self.code
        );
        Ok(self.printed)
    }

    /// Demands that exit code and all of these words, wherever it wrote them, and returns all.
    pub fn expect_words(self, code: i32, words: &[&str]) -> Result<String> {
        let said = format!("{}{}", self.printed, self.complained);
        for word in words {
            ensure!(said.contains(word), "{}\nnothing of {word:?} in:\n{said}", self.what);
        }
        self.expect(code)?;
        Ok(said)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The pipe's end is enough; a machine that hangs on it all the same must not hang us.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
