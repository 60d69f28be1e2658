//! Attempts with names that look like, contain or stand beside alice's.

use anyhow::{Result, ensure};
use sealpost_tunnel::MxName;
use sealpost_tunnel::request::RefusalCode;

use crate::world::{BOX_DOMAIN, RELAY, World, proof};

/// Other spellings of her name are her name: with a record of his own beside hers, he hears what he
/// hears of the plain spelling.
pub(crate) fn case_and_dots(world: &mut World) -> Result<()> {
    world.mallory_proves(&["home.example"])?;
    for spelling in ["home.example", "HOME.Example", "home.example.", "hOmE.eXaMpLe."] {
        world.mallory.claim(spelling, &[])?.not_available("home.example")?;
        world.mallory.claim(spelling, &["MX.home.Example."])?.not_available("home.example")?;
    }
    let escaped = br#"{"do":"claim","domain":"h\u006fme.e\u0078ample","mx":[]}"#;
    world.mallory.say(escaped)?.not_available("home.example")
}

pub(crate) fn what_is_no_name(world: &mut World) -> Result<()> {
    let bad = [
        "home.example..",
        ".home.example",
        "home..example",
        " home.example",
        "home.example ",
        "home.example\0",
        "home.example\n",
        "home.example:25",
        "home.example/",
        "*.home.example",
        "_sealpost.home.example",
        "-home.example",
        // Dots in other scripts, which browsers take for dots.
        "home\u{3002}example",
        "home\u{ff0e}example",
        "home\u{ff61}example",
        // Letters that some software takes for others, or for none.
        "\u{ff48}ome.example",
        "HOME.EXAMP\u{216c}E",
        "home.e\u{00ad}xample",
        "ho\u{200d}me.example",
        "h\u{043e}me.example",
        // Decodes to "home".
        "xn--home-.example",
        "XN--HOME-.example",
        "",
        ".",
        "home",
        "example",
        "127.0.0.1",
        "203.0.113.1",
        "2001:db8:1::1",
        "[2001:db8:1::1]",
        "0x7f.1",
        "203.0.113.1.",
    ];
    for name in bad {
        world.mallory.claim(name, &[])?.not_read()?;
        world.mallory.claim("mallory.example", &[name])?.not_read()?;
        world.mallory.release(name)?.not_read()?;
    }
    Ok(())
}

/// What is proved must be what is entered.
pub(crate) fn two_names_in_one_claim(world: &mut World) -> Result<()> {
    for twice in [
        r#"{"do":"claim","domain":"mallory.example","domain":"home.example","mx":[]}"#,
        r#"{"do":"claim","domain":["mallory.example","home.example"],"mx":[]}"#,
        r#"{"do":"claim","domain":{"mallory.example":"home.example"},"mx":[]}"#,
        r#"{"do":"claim","domain":"mallory.example","mx":[]}{"do":"claim","domain":"home.example"}"#,
        r#"{"do":"claim","do":"standing","domain":"home.example"}"#,
        r#"{"do":"Claim","domain":"home.example"}"#,
        r#"{"do":"claim","domain":"home.example","mx":"mx.home.example"}"#,
    ] {
        world.mallory.say(twice.as_bytes())?.not_read()?;
    }
    Ok(())
}

/// As A-labels, the only form in which names are heard of here. Each has a record of his.
pub(crate) fn international_twins(world: &mut World) -> Result<()> {
    let twins = [
        // "home" with a Cyrillic o, and with a Roman numeral d that no registry gives out.
        "xn--hme-sed.example",
        "XN--HME-SED.example",
        "xn--hoe-lu1a.example",
        // No punycode, or a spelling that is not the right one.
        "xn--a.example",
        "xn--99999999999.example",
        "ho--me.example",
    ];
    world.mallory_proves(&twins)?;
    for twin in twins {
        world.mallory.claim(twin, &[])?.refused(RefusalCode::NameRefused)?;
        world.expect_nobody(&format!("mx.{}", twin.to_lowercase()))?;
    }
    Ok(())
}

/// By the design two names in one script each are two names: whoever registered the Cyrillic one
/// gets the mail that is sent to it, and nothing of what is sent to the Latin one. Sealpost shows
/// and compares A-labels, which do not look alike.
pub(crate) fn twin_in_one_script(world: &mut World) -> Result<()> {
    world.alice_has(&["cope.example"])?;
    world.mallory_proves(&["xn--e1argc.example"])?;
    world.mallory.claim("cope.example", &[])?.refused(RefusalCode::NotProved)?;
    world.mallory.claim("xn--e1argc.example", &[])?.granted()?;
    let reached = world.reached("mx.xn--e1argc.example")?;
    ensure!(reached == Some(world.mallory.key()), "{reached:?}");
    Ok(())
}

pub(crate) fn what_belongs_to_nobody(world: &mut World) -> Result<()> {
    let domains =
        ["co.uk", "github.io", "home.arpa", "printer.local", "in-addr.arpa", "x.localhost"];
    world.mallory_proves(&domains)?;
    for domain in domains {
        world.mallory.claim(domain, &[])?.refused(RefusalCode::NameRefused)?;
    }
    Ok(())
}

pub(crate) fn what_belongs_to_the_relay(world: &mut World) -> Result<()> {
    let own = [RELAY, BOX_DOMAIN].map(|own| [own.to_owned(), format!("deep.{own}")]).concat();
    let own = [own, vec![format!("alice.{BOX_DOMAIN}"), format!("mx.alice.{BOX_DOMAIN}")]].concat();
    let mallory = world.mallory.key();
    let mut proofs: Vec<String> = own.iter().map(|domain| proof(domain, mallory)).collect();
    proofs.push(proof("example.net", mallory));
    world.publish(&proofs)?;
    for own in &own {
        world.mallory.claim(own, &[])?.refused(RefusalCode::NameRefused)?;
        world.mallory.claim("example.net", &[own])?.refused(RefusalCode::NameRefused)?;
        let among_others = ["example.net", own];
        world.mallory.claim("example.net", &among_others)?.refused(RefusalCode::NameRefused)?;
    }
    world.expect_nobody(RELAY)?;
    // By the design the domain above may be claimed: an operator's own is often the one above.
    world.mallory.claim("example.net", &[])?.granted()?;
    world.expect_nobody(RELAY)
}

pub(crate) fn too_long(world: &mut World) -> Result<()> {
    let label = "a".repeat(60);
    let of_300 = format!("{}.home.example", [&*label; 5].join("."));
    ensure!(of_300.len() > 300);
    world.mallory.claim(&of_300, &[])?.not_read()?;
    // A name, but without room for the record in front.
    let of_250 = format!("{}.{}.example", [&*label; 3].join("."), "a".repeat(59));
    ensure!(of_250.len() == 250);
    world.mallory.claim(&of_250, &[])?.refused(RefusalCode::NameRefused)?;
    world.mallory.claim(&"a.".repeat(9000), &[])?.not_read()
}

/// His domain is proved, the names are not in it.
pub(crate) fn her_mx_name_under_his_domain(world: &mut World) -> Result<()> {
    // Ends as hers does, but not at a dot.
    world.mallory_proves(&["ome.example"])?;
    for mine in ["mallory.example", "ome.example"] {
        for hers in ["mx.home.example", "MX.HOME.EXAMPLE", "home.example.", "other.home.example"] {
            let both = format!("mx.{mine}");
            for mx in [&[hers][..], &[&both, hers]] {
                world.mallory.claim(mine, mx)?.refused(RefusalCode::NameRefused)?;
            }
        }
    }
    world.mallory.claim("mallory.example", &["mx.home.example.mallory.example"])?.granted()?;
    world.mallory.claim("mallory.example", &[])?.granted()?;
    Ok(())
}

pub(crate) fn too_many_mx_names(world: &mut World) -> Result<()> {
    let names: Vec<String> = (0..17).map(|at| format!("mx{at}.mallory.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.mallory.claim("mallory.example", &names)?.not_read()?;
    world.expect_nobody("mx0.mallory.example")?;
    let standing = world.mallory.claim("mallory.example", &names[..16])?.granted()?;
    let mine = standing.domains.iter().find(|it| it.domain.as_str() == "mallory.example");
    ensure!(mine.is_some_and(|it| {
        it.mx.iter().all(|mx: &MxName| mx.as_str().ends_with(".mallory.example"))
    }));
    world.mallory.claim("mallory.example", &[])?.granted()?;
    Ok(())
}
