//! Why a relay does not do what a box asked for.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::standing::words;

macro_rules! refusal_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal;)+) => {
        /// A cause that a program can act on; for people there is [`Refusal::message`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RefusalCode {
            $($(#[doc = $doc])+ $variant,)+
            /// One that this program does not know, from a newer relay.
            Other,
        }

        impl RefusalCode {
            /// Every cause that this program knows.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The cause as it stands on the wire, in logs and in metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Other => "other",
                }
            }

            fn from_label(label: &str) -> Self {
                match label {
                    $($label => Self::$variant,)+
                    _ => Self::Other,
                }
            }
        }
    };
}

refusal_codes! {
    /// No invite has this secret.
    InviteUnknown = "invite-unknown";
    /// The invite was not used in time.
    InviteExpired = "invite-expired";
    /// The invite was used already.
    InviteSpent = "invite-spent";
    /// Another box has the name that the invite is for.
    NameTaken = "name-taken";
    /// The key belongs to another box.
    KeyTaken = "key-taken";
    /// The key was revoked or replaced, and never comes back.
    KeyRevoked = "key-revoked";
    /// No box here has the key that asks.
    UnknownBox = "unknown-box";
    /// The domain or MX name is one that nobody can have here.
    NameRefused = "name-refused";
    /// The proof of the domain was not found.
    NotProved = "not-proved";
    /// The domain is proved, but cannot be had now.
    NotAvailable = "not-available";
    /// More than the box may have.
    TooMany = "too-many";
    /// A recovery key is registered, so only it can name another.
    RecoverySet = "recovery-set";
    /// A handover's signature is not right for this.
    BadSignature = "bad-signature";
    /// The registry cannot write now; nothing has changed.
    Unavailable = "unavailable";
    /// Too much is asked at once.
    Busy = "busy";
    /// The request cannot be read.
    Protocol = "protocol";
}

impl RefusalCode {
    /// Whether the same request may succeed a little later.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Unavailable | Self::Busy)
    }
}

impl Serialize for RefusalCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl<'de> Deserialize<'de> for RefusalCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|label| Self::from_label(&label))
    }
}

/// A request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: cause and cure. As it is received, it holds nothing that steers a terminal.
    #[serde(deserialize_with = "words")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_from_the_wire_and_new_ones_are_other() {
        for &code in RefusalCode::ALL {
            let wire = serde_json::to_string(&code).unwrap();
            assert_eq!(serde_json::from_str::<RefusalCode>(&wire).unwrap(), code);
            assert_eq!(code.may_pass(), ["unavailable", "busy"].contains(&code.label()));
        }
        let newer: RefusalCode = serde_json::from_str("\"too-late\"").unwrap();
        assert_eq!(newer, RefusalCode::Other);
    }

    #[test]
    fn a_relay_cannot_paint_on_its_boxs_terminal() {
        let wire = r#"{"code":"busy","message":"wait\r\n\u001b[2J\u202edone"}"#;
        let refusal: Refusal = serde_json::from_str(wire).unwrap();
        assert_eq!(refusal.message, "wait[2Jdone");
        let long = format!(r#"{{"code":"busy","message":"{}"}}"#, "a".repeat(5000));
        assert_eq!(serde_json::from_str::<Refusal>(&long).unwrap().message.len(), 1000);
    }
}
