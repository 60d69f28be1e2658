//! Attempts from zones above and beneath alice's domains.

use anyhow::{Result, ensure};
use sealpost_tunnel::request::RefusalCode;

use crate::world::World;

const MX_TAKEN: RefusalCode = RefusalCode::NotAvailable;

/// She gave a zone beneath hers to somebody whose host is his now.
pub(crate) fn domain_beneath_hers(world: &mut World) -> Result<()> {
    let beneath = ["sub.home.example", "a.b.c.home.example"];
    world.mallory_proves(&beneath)?;
    for domain in beneath {
        world.mallory.claim(domain, &[])?.not_available(domain)?;
        world.mallory.claim(domain, &[domain])?.not_available(domain)?;
        world.expect_nobody(domain)?;
        world.expect_nobody(&format!("mx.{domain}"))?;
    }
    Ok(())
}

pub(crate) fn her_mx_name_as_a_domain(world: &mut World) -> Result<()> {
    let domain = "mx.home.example";
    world.mallory_proves(&[domain])?;
    world.mallory.claim(domain, &[domain])?.not_available(domain)?;
    world.mallory.claim(domain, &[])?.not_available(domain)?;
    world.expect_nobody("mx.mx.home.example")
}

/// The zone above hers is his, as a provider's is.
pub(crate) fn names_beneath_hers_from_above(world: &mut World) -> Result<()> {
    world.alice_has(&["house.town.example", "inner.house.town.example"])?;
    world.mallory_proves(&["town.example"])?;
    for mx in [
        "mx.house.town.example",
        "house.town.example",
        "Other.House.Town.Example",
        "a.b.c.house.town.example",
        "mx.inner.house.town.example",
    ] {
        for names in [&[mx][..], &["mx.town.example", mx]] {
            let message = world.mallory.claim("town.example", names)?.refused(MX_TAKEN)?;
            let expected = format!(
                "the MX name {} is not available at this relay; choose another name for the same \
                 box",
                mx.to_lowercase()
            );
            ensure!(message == expected, "{message}");
        }
    }
    // Refused as a whole.
    world.expect_nobody("mx.town.example")?;
    world.expect_nobody("other.house.town.example")
}

/// By the design his claim above hers is good, and gives nothing at or beneath hers. Nor must it
/// keep her from changing what is hers.
pub(crate) fn domain_above_hers_keeps_nothing_from_her(world: &mut World) -> Result<()> {
    world.mallory.claim("town.example", &["mx.town.example", "xhouse.town.example"])?.granted()?;
    world.judge()?;
    let (hers, inner) = ("house.town.example", "inner.house.town.example");
    let new = format!("new.{hers}");
    world.alice.claim(hers, &[&format!("mx.{hers}"), &new])?.granted()?;
    ensure!(world.reached(&new)? == Some(world.alice.key()));
    world.alice.release(hers)?.granted()?;
    world.mallory.claim(hers, &[])?.refused(RefusalCode::NotProved)?;
    world.mallory.claim("town.example", &[&new])?.refused(MX_TAKEN)?;
    world.alice.claim(hers, &[])?.granted()?;
    world.alice.claim(inner, &[])?.granted()?;
    world.expect_nobody(&new)
}

/// A release of what was never one's own is answered as one of what was given up already.
pub(crate) fn release_of_her_domain(world: &mut World) -> Result<()> {
    let mine = world.mallory.release("nobodys.example")?.granted()?;
    for domain in ["home.example", "HOME.EXAMPLE.", "mx.home.example", "town.test"] {
        let told = world.mallory.release(domain)?.granted()?;
        ensure!(told == mine, "{domain}: {told:?}");
    }
    Ok(())
}
