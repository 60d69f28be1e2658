//! Why the registry did not do what was asked, with the cure, in words for people.

use std::path::PathBuf;

use sealpost_tunnel::request::{Refusal, RefusalCode};
use sealpost_tunnel::{BoxName, DomainName, MxName};

/// Why the registry did not do what was asked. Nothing was changed, except that after
/// `Unavailable` it is not known; every change may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The database does not do its work.
    #[error("the registry cannot be used now, try again in a minute; repeating is safe ({0})")]
    Unavailable(String),
    /// The file cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    State {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row holds what this program did not write.
    #[error("the registry holds something that this program does not understand: {0}")]
    Content(String),
    /// No invite has this secret.
    #[error("there is no such invite here; ask the relay's operator for a new one")]
    InviteUnknown,
    /// The invite is too old.
    #[error("this invite has expired; ask the relay's operator for a new one")]
    InviteExpired,
    /// The invite has been used.
    #[error(
        "this invite has been used already; if that was not you, tell the relay's operator, and \
         ask for a new one"
    )]
    InviteSpent,
    /// A box of this name is active.
    #[error(
        "a box named `{0}` is in use; choose another name, or revoke that box first \
         (sealpost-relay revoke {0}). For that box to find this relay too: \
         sealpost-relay invite {0} --known"
    )]
    NameTaken(BoxName),
    /// The key belongs to a box.
    #[error(
        "the key belongs to a box that is known here under another name; a box needs a key of its \
         own (sealpost-agent key rotate makes a new one)"
    )]
    KeyTaken,
    /// The key may not be used again.
    #[error("this key was revoked or replaced and is not accepted any more; a new one is needed")]
    KeyRevoked,
    /// No active box has this key or name.
    #[error("no box of this name or key is active here")]
    UnknownBox,
    /// Taken, resting, or beneath somebody else's domain: which one is told to nobody.
    #[error(
        "{0} is proved to be yours, but is not available at this relay now; ask its operator, or \
         use another relay"
    )]
    NotAvailable(DomainName),
    /// One of the MX names has another owner.
    #[error("the MX name {0} is not available at this relay; choose another name for the same box")]
    MxNotAvailable(MxName),
    /// An MX name that is not in the domain.
    #[error("the MX name {mx} is not in the domain {domain}: claim the domain that it is in")]
    MxOutside {
        /// The name.
        mx: MxName,
        /// The domain that was claimed.
        domain: DomainName,
    },
    /// More domains or names than the box may have.
    #[error("{0}")]
    TooMany(String),
    /// The box has a recovery key.
    #[error("this box has a recovery kit already; replacing it needs the old kit (--replace)")]
    RecoverySet,
    /// A signature does not fit.
    #[error("the signature does not fit: it was made with another key, or for another relay")]
    BadSignature,
    /// The address has an owner.
    #[error("the address {address} belongs to the box `{owner}`; take it from that box first")]
    AddressTaken {
        /// As text.
        address: String,
        /// The box that has it.
        owner: String,
    },
}

impl RegistryError {
    pub(super) fn unavailable(reason: impl ToString) -> Self {
        Self::Unavailable(reason.to_string())
    }

    pub(super) fn slow() -> Self {
        Self::unavailable("the database took too long")
    }

    pub(super) fn migration(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::VersionMissing(_)
            | sqlx::migrate::MigrateError::VersionMismatch(_) => Self::Content(format!(
                "its tables were made by another version of this program ({error}); \
                 run the newest version on all relays of this registry"
            )),
            error => Self::unavailable(error),
        }
    }

    /// How a box is told. What went wrong inside is for the operator's log alone.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Unavailable(_) | Self::State { .. } | Self::Content(_) => {
                let message = "the relay cannot look into its registry now; nothing is lost, try \
                               again in a minute";
                return Refusal { code: RefusalCode::Unavailable, message: message.into() };
            }
            Self::InviteUnknown => RefusalCode::InviteUnknown,
            Self::InviteExpired => RefusalCode::InviteExpired,
            Self::InviteSpent => RefusalCode::InviteSpent,
            Self::NameTaken(name) => {
                let message = format!(
                    "a box named `{name}` has joined in the meantime; ask the relay's operator for \
                     an invite with another name"
                );
                return Refusal { code: RefusalCode::NameTaken, message };
            }
            Self::KeyTaken => RefusalCode::KeyTaken,
            Self::KeyRevoked => RefusalCode::KeyRevoked,
            Self::UnknownBox => RefusalCode::UnknownBox,
            Self::NotAvailable(_) | Self::MxNotAvailable(_) => RefusalCode::NotAvailable,
            Self::MxOutside { .. } => RefusalCode::NameRefused,
            Self::TooMany(_) => RefusalCode::TooMany,
            Self::RecoverySet => RefusalCode::RecoverySet,
            Self::BadSignature => RefusalCode::BadSignature,
            Self::AddressTaken { .. } => RefusalCode::NotAvailable,
        };
        Refusal { code, message: self.to_string() }
    }
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Content(error.to_string())
            }
            error => Self::unavailable(error),
        }
    }
}
