//! A box that is switched off for weeks.

use anyhow::{Result, ensure};
use sealpost_tests::sealpost::agent_does;
use sealpost_tests::wait::wait_until;

use Resolved::{Broken, Valid};

use crate::world::{DEADLINE, GLANCE, World, world};

/// With signatures that live for 14 days, as they do by default.
const SHORT: &str = "home.example";
/// With signatures that live longer than the zone does without its box, 28 days.
const LONG: &str = "long.example";
const ZONES: &str = "[[zone]]\nname = \"home.example\"\n\
                     [[zone]]\nname = \"long.example\"\nvalidity = \"35d\"\n";

/// What everybody's resolver says of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolved {
    /// It has the answer, and has validated it.
    Valid,
    /// It has none that it believes.
    Broken,
}

/// Waits until the relay answers so for the zone, and everybody's resolver so.
fn expect(world: &World<'_>, domain: &str, relay: &str, resolved: Resolved) -> Result<()> {
    let mut said = String::new();
    let waited = wait_until(&format!("{relay} and {resolved:?} for {domain}"), GLANCE, || {
        said = world.asked(domain, "MX")?;
        let is_broken = || Ok(world.resolved(domain, "MX")?.contains("status: SERVFAIL"));
        Ok(said.contains(&format!("status: {relay},"))
            && match resolved {
                Resolved::Valid => world.is_authentic(domain, "MX"),
                Resolved::Broken => is_broken(),
            }?)
    });
    waited.map_err(|error| error.context(said))
}

#[test]
fn a_zone_outlives_its_box_by_as_long_as_the_book_says() -> Result<()> {
    world(&[], ZONES, |world| {
        world.own(SHORT)?;
        world.own(LONG)?;
        let sender = world.sender()?;
        world.deliver(&sender, "before")?;
        world.stop_agent()?;

        world.internet.clock.advance(9)?;
        expect(world, SHORT, "NOERROR", Valid)?;
        expect(world, LONG, "NOERROR", Valid)?;
        // Served as it is, and believed by nobody who validates.
        world.internet.clock.advance(11)?;
        expect(world, SHORT, "NOERROR", Broken)?;
        expect(world, LONG, "NOERROR", Valid)?;
        // Also by a relay that was restarted.
        world.stop_relay("TERM")?;
        world.start_relay()?;
        expect(world, LONG, "NOERROR", Valid)?;
        // Until it expires.
        world.internet.clock.advance(9)?;
        expect(world, SHORT, "SERVFAIL", Broken)?;
        expect(world, LONG, "SERVFAIL", Broken)?;

        world.start_agent()?;
        for domain in [SHORT, LONG] {
            world.expect_served(domain)?;
            expect(world, domain, "NOERROR", Valid)?;
        }
        world.deliver(&sender, "after")?;
        wait_until("the claims to be as before", DEADLINE, || {
            let domains = agent_does(&world.network.home, "domain list")?;
            ensure!(domains.contains(SHORT) && domains.contains(LONG), "{domains}");
            Ok(!domains.contains("SUSPENDED"))
        })
    })
}
