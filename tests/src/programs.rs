//! The programs under test, as this workspace builds them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

const PROGRAMS: [&str; 3] = ["sealpost-relay", "sealpost-agent", "sealpost-dns"];

/// Names a directory with programs to test instead, such as those of a package.
const GIVEN: &str = "SEALPOST_PROGRAMS";

/// The directory with fresh builds of the programs. Cargo builds them first when it runs the
/// tests, since it does not build another package's programs by itself.
pub fn directory() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn build() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(GIVEN) {
        return Ok(PathBuf::from(given));
    }
    // A test runs as TARGET/PROFILE/deps/NAME-HASH.
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("the profile's directory")?;
    let target = profile.parent().context("the target directory")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--locked", "--target-dir"]).arg(target);
        for program in PROGRAMS {
            command.args(["--package", program]);
        }
        if profile.ends_with("release") {
            command.arg("--release");
        }
        ensure!(command.status()?.success(), "the programs do not build");
    }
    for program in PROGRAMS {
        let path = profile.join(program);
        ensure!(path.exists(), "{} is missing: build it first", path.display());
    }
    Ok(profile.to_path_buf())
}
