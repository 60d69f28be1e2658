//! What has to be done at a relay for a recovery key to be registered there. Pure.

use sealpost_tunnel::PublicKey;

/// What has to be done at one relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the key is registered.
    Done,
    /// Register it: there is none.
    Set,
    /// Register it with a signature of the old kit.
    Replace,
    /// It cannot be done: a key is registered, and its kit was not given.
    OldKitNeeded,
    /// It cannot be done: the kit that was given is not the one that is registered.
    OtherKit,
}

/// For a relay where `registered` is, which is to know `wanted`, when the owner has the kit with
/// the key `old`.
pub fn step(registered: Option<PublicKey>, wanted: PublicKey, old: Option<PublicKey>) -> Step {
    match (registered, old) {
        (None, _) => Step::Set,
        (Some(registered), _) if registered == wanted => Step::Done,
        (Some(registered), Some(old)) if registered == old => Step::Replace,
        (Some(_), Some(_)) => Step::OtherKit,
        (Some(_), None) => Step::OldKitNeeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    #[test]
    fn a_registered_key_gives_way_to_its_own_kit_alone() {
        let [new, old, other] = [(); 3].map(|()| Identity::ephemeral().public());
        for (registered, given, wanted) in [
            (None, None, Step::Set),
            (None, Some(old), Step::Set),
            (Some(new), None, Step::Done),
            (Some(new), Some(old), Step::Done),
            (Some(old), Some(old), Step::Replace),
            (Some(other), Some(old), Step::OtherKit),
            (Some(old), None, Step::OldKitNeeded),
        ] {
            assert_eq!(step(registered, new, given), wanted);
        }
    }
}
