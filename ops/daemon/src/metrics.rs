//! What every program does alike when it makes its counters.

use prometheus::{Gauge, Opts, Registry, core::Collector};

/// Enters `metric` into `registry` and gives it back.
pub fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Enters a gauge `name` that is always 1 and has `version` as a label, so that a dashboard can
/// tell which version runs where.
pub fn register_build_info(
    registry: &Registry,
    name: &str,
    version: &str,
) -> prometheus::Result<()> {
    let options = Opts::new(name, "1, with the version as a label");
    let build = Gauge::with_opts(options.const_label("version", version))?;
    build.set(1.0);
    register(registry, build).map(drop)
}
