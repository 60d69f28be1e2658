//! Claims a domain at one relay.

use sealpost_tunnel::request::{DomainStanding, RefusalCode, Standing};
use sealpost_tunnel::{DomainName, MxName, Request};

use super::ask::{AskFailure, Line};
use super::mx_names;
use super::mx_set::claim_of;

/// Claims `domain` with the MX names `mx` on `line`, whose relay just said `before`. Without names
/// a claim gets those that a box with `relays` relays has by default, unless it stands with others.
pub async fn claim(
    line: &Line,
    before: &Standing,
    domain: &DomainName,
    mx: &[MxName],
    relays: usize,
) -> Result<(Standing, DomainStanding), AskFailure> {
    let mx = match (mx, claim_of(before, domain)) {
        ([], held) => mx_names::to_claim(domain, held.map_or(&[], |held| &held.mx), relays),
        (mx, _) => mx.to_vec(),
    };
    let request = Request::Claim { domain: domain.clone(), mx };
    let standing = line.standing(&request).await?;
    let claimed = claim_of(&standing, domain).cloned();
    let claimed = claimed.ok_or_else(|| {
        AskFailure::Answer("the relay agreed to the claim, and does not list the domain".into())
    })?;
    // The owner will copy them into the zone: mail must not be led to a name of the relay's.
    if let Some(foreign) = claimed.mx.iter().find(|name| !domain.covers(name)) {
        return Err(AskFailure::Answer(format!(
            "the relay names {foreign} for {domain}, which is not in the domain; publish nothing of it"
        )));
    }
    Ok((standing, claimed))
}

/// Gives `domain` up; `false` when the relay, which just said `before`, has no such claim.
pub async fn release(
    line: &Line,
    before: &Standing,
    domain: &DomainName,
) -> Result<bool, AskFailure> {
    if claim_of(before, domain).is_none() {
        return Ok(false);
    }
    let standing = line.standing(&Request::Release { domain: domain.clone() }).await?;
    match claim_of(&standing, domain) {
        None => Ok(true),
        Some(_) => Err(AskFailure::Answer("the relay still lists the domain".into())),
    }
}

/// Whether the same claim may succeed later without a change of anything but DNS and network.
pub fn worth_waiting(failure: &AskFailure) -> bool {
    failure.may_pass() || failure.code() == Some(RefusalCode::NotProved)
}
