//! What the parents of zones say of their keys, as the name server asks for it.

use std::sync::Arc;

use sealpost_dns::record::Name;
use sealpost_dns::trust::{Delegation, Parent};
use sealpost_tunnel::DomainName;

use crate::proof::{self, Prover};

/// Parents by validated look-up.
pub(super) struct Parents(pub(super) Arc<Prover>);

impl Parent for Parents {
    async fn delegation(&self, apex: &Name) -> Result<Delegation, String> {
        let domain = domain_of(apex).ok_or("no domain of a box has this name")?;
        match self.0.parent(&domain).await {
            proof::Parent::Signed(ds) => Ok(Delegation::Ds(ds)),
            proof::Parent::Unsigned => Ok(Delegation::Insecure),
            proof::Parent::Unclear(why) => Err(why),
        }
    }
}

/// The domain whose zone has this name.
pub(super) fn domain_of(apex: &Name) -> Option<DomainName> {
    apex.to_string().trim_end_matches('.').to_ascii_lowercase().parse().ok()
}

/// The name of the zone of a domain.
pub(super) fn apex_of(domain: &DomainName) -> Option<Name> {
    domain.as_str().parse().ok()
}
