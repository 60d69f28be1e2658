//! Debian packages that are unpacked instead of installed.
//!
//! Postfix and Exim exclude each other as installed packages, and the name servers would start
//! as services. Each line of `tests/debian-packages-unpacked` becomes a directory tree that a
//! [`crate::machine::Machine`] lays over the root file system.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Trees are kept from run to run: unpacking is the slow part and needs the network.
pub(crate) const CACHE: &str = "/var/cache/sealpost-tests";

/// With which Debian signs all of its suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const LIST: &str = include_str!("../debian-packages-unpacked");

/// The directory with the unpacked packages of `tree`, downloaded first if this machine has
/// not done so yet. Several test programs may ask at once: one works, the others wait.
///
/// A tree holds what its packages need and the machine lacks, so it is made again when the machine's
/// own packages have changed: with one less, a program of the tree would miss a library.
pub fn unpacked(tree: &str) -> Result<PathBuf> {
    let packages = packages_of(tree)?;
    let wanted = format!("{}\n{}", packages.join(" "), installed()?);
    kept(tree, &wanted, |home, root| {
        let archives = home.join("archives");
        if archives.exists() {
            fs::remove_dir_all(&archives)?;
        }
        download(&packages, &archives).with_context(|| format!("download {packages:?}"))?;
        prepare(root)?;
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                unpack(&path, root).with_context(|| format!("unpack {}", path.display()))?;
            }
        }
        Ok(())
    })
}

/// The tree `tree`, made by `make` unless it is there already as `wanted`. `make` gets a directory to
/// work in, and the one of the tree, which it must make.
pub(crate) fn kept(
    tree: &str,
    wanted: &str,
    make: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let home = Path::new(CACHE).join(tree);
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let lock = File::create(Path::new(CACHE).join("lock"))?;
    lock.lock().context("wait for another test's unpacking")?;
    let root = home.join("root");
    let complete = home.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|unpacked| unpacked == wanted) {
        return Ok(root);
    }
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    make(&home, &root)?;
    fs::write(&complete, wanted)?;
    Ok(root)
}

/// The machine's own packages, a line each: what is left of it, its name, its version.
fn installed() -> Result<String> {
    let format = "--showformat=${db:Status-Status} ${binary:Package} ${Version}\n";
    let output = Command::new("dpkg-query").args(["--show", format]).output();
    let output = output.context("run dpkg-query (these tests need Debian)")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn packages_of(tree: &str) -> Result<Vec<&'static str>> {
    LIST.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&tree))
        .map(|words| words[1..].to_vec())
        .with_context(|| format!("tests/debian-packages-unpacked has no tree {tree}"))
}

fn download(packages: &[&str], archives: &Path) -> Result<()> {
    fs::create_dir_all(archives.join("partial"))?;
    let (foreign, own): (Vec<&str>, Vec<&str>) =
        packages.iter().partition(|package| package.contains('/'));
    for package in foreign {
        download_from_suite(package, archives)?;
    }
    download_with_needs(&own, archives)
}

/// apt resolves what the packages need beyond what is installed. `--reinstall` downloads them
/// also on a machine that has one installed. Nothing is installed or removed.
fn download_with_needs(packages: &[&str], archives: &Path) -> Result<()> {
    let cache = format!("Dir::Cache::archives={}", archives.display());
    let mut arguments = vec!["install", "-y", "-qq", "--reinstall", "--download-only"];
    arguments.extend(["--no-install-recommends", "-o", &cache]);
    arguments.extend(["-o", "DPkg::Lock::Timeout=300"]);
    arguments.extend(packages);
    if apt(&arguments, archives)?.is_some() {
        return Ok(());
    }
    // A fresh machine has no package lists, an old one has lists of packages that are gone.
    apt(&["update", "-qq"], archives)?.context("apt-get update failed")?;
    apt(&arguments, archives)?.context("apt-get install --download-only failed")?;
    Ok(())
}

/// Downloads `package/suite`, such as `opensmtpd/bookworm-backports`, from where this machine gets
/// its own suite, and leaves the machine's lists as they are.
fn download_from_suite(package: &str, archives: &Path) -> Result<()> {
    let (_, suite) = package.split_once('/').context("package/suite")?;
    let release = suite.split('-').next().unwrap_or(suite);
    let wanted = format!("Release: {release}");
    let sources = ["indextargets", "--format", "$(REPO_URI)", "Component: main", &wanted];
    let sources = apt(&sources, archives)?.context("apt-get indextargets failed")?;
    let mirror = sources.lines().next();
    let mirror = mirror.with_context(|| format!("this machine has no sources of {release}"))?;
    let lists = archives.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let list = archives.join("sources.list");
    fs::write(&list, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
    let settings = [
        format!("Dir::Etc::SourceList={}", list.display()),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State::Lists={}", lists.display()),
        format!("Dir::Cache={}", archives.display()),
    ];
    let with = |words: &[&'static str]| -> Vec<String> {
        let settings = settings.iter().flat_map(|setting| ["-o".to_owned(), setting.clone()]);
        words.iter().map(|word| (*word).to_owned()).chain(settings).collect()
    };
    apt(&with(&["update", "-qq"]), archives)?.with_context(|| format!("no lists of {suite}"))?;
    let mut arguments = with(&["download", "-qq"]);
    arguments.push(package.to_owned());
    apt(&arguments, archives)?.with_context(|| format!("no {package}"))?;
    Ok(())
}

/// What apt-get printed, nothing if it failed. It works in `directory`.
fn apt<S: AsRef<OsStr>>(arguments: &[S], directory: &Path) -> Result<Option<String>> {
    let output = Command::new("apt-get")
        .args(arguments)
        .current_dir(directory)
        .output()
        .context("run apt-get (these tests need Debian)")?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// A Debian root has `lib -> usr/lib` and the like. Older packages still contain `lib/…`; as a
/// real directory in an overlay it would hide the whole `/lib` of the machine.
fn prepare(root: &Path) -> Result<()> {
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    // Must not depend on the umask: services drop root and still have to pass through.
    for path in ["", "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"] {
        fs::set_permissions(root.join(path), Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    let script = r#"dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2""#;
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", script, "unpack"])
        .args([package, root])
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
