//! Debian packages that are unpacked instead of installed.
//!
//! Postfix and Exim exclude each other as installed packages, and the name servers would start
//! as services. Each line of `tests/debian-packages-unpacked` becomes a directory tree that a
//! [`crate::machine::Machine`] lays over the root file system.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Trees are kept from run to run: unpacking is the slow part and needs the network.
pub(crate) const CACHE: &str = "/var/cache/sealpost-tests";

const LIST: &str = include_str!("../debian-packages-unpacked");

/// The directory with the unpacked packages of `tree`, downloaded first if this machine has
/// not done so yet. Several test programs may ask at once: one works, the others wait.
pub fn unpacked(tree: &str) -> Result<PathBuf> {
    let packages = packages_of(tree)?;
    let home = Path::new(CACHE).join(tree);
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let lock = File::create(Path::new(CACHE).join("lock"))?;
    lock.lock().context("wait for another test's unpacking")?;
    let root = home.join("root");
    let complete = home.join("complete");
    let wanted = packages.join(" ");
    if fs::read_to_string(&complete).is_ok_and(|unpacked| unpacked == wanted) {
        return Ok(root);
    }
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let archives = home.join("archives");
    download(&packages, &archives).with_context(|| format!("download {wanted}"))?;
    prepare(&root)?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            unpack(&path, &root).with_context(|| format!("unpack {}", path.display()))?;
        }
    }
    fs::write(&complete, wanted)?;
    Ok(root)
}

fn packages_of(tree: &str) -> Result<Vec<&'static str>> {
    LIST.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&tree))
        .map(|words| words[1..].to_vec())
        .with_context(|| format!("tests/debian-packages-unpacked has no tree {tree}"))
}

/// apt resolves what the packages need beyond what is installed. `--reinstall` downloads them
/// also on a machine that has one installed. Nothing is installed or removed.
fn download(packages: &[&str], archives: &Path) -> Result<()> {
    fs::create_dir_all(archives.join("partial"))?;
    let apt = |arguments: &[&str]| -> Result<bool> {
        let output = Command::new("apt-get")
            .args(arguments)
            .output()
            .context("run apt-get (these tests need Debian)")?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.status.success())
    };
    let cache = format!("Dir::Cache::archives={}", archives.display());
    let mut arguments = vec!["install", "-y", "-qq", "--reinstall", "--download-only"];
    arguments.extend(["--no-install-recommends", "-o", &cache]);
    arguments.extend(["-o", "DPkg::Lock::Timeout=300"]);
    arguments.extend(packages);
    if apt(&arguments)? {
        return Ok(());
    }
    // A fresh machine has no package lists, an old one has lists of packages that are gone.
    ensure!(apt(&["update", "-qq"])?, "apt-get update failed");
    ensure!(apt(&arguments)?, "apt-get install --download-only failed");
    Ok(())
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
