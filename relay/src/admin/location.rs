//! Where a registry is, without the password that its URL may hold. Pure.

use crate::config::Fixed;
use crate::registry::registry_file;

/// The kind of the registry that `fixed` names, and where it is.
pub fn registry_location(fixed: &Fixed) -> (&'static str, String) {
    match &fixed.registry {
        Some(url) => ("postgresql", without_password(url.as_str())),
        None => ("sqlite", registry_file(&fixed.state).display().to_string()),
    }
}

/// The scheme, host and database of `url`: neither a password nor parameters, which may be one.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "…".into() };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password with one of these in it, which no database accepts, must not pass for a host.
    if rest.contains('@') {
        return format!("{scheme}://…");
    }
    let database = rest.split(['?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    match user.split(':').next().unwrap_or_default() {
        "" => format!("{scheme}://{host}{database}"),
        user => format!("{scheme}://{user}@{host}{database}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_leads_to_the_database_stays() {
        for (url, shown) in [
            ("postgres://db.example/x", "postgres://db.example/x"),
            ("postgres://relay@db.example:5433/x", "postgres://relay@db.example:5433/x"),
            ("postgres://relay:s3cr@t@db.example/x", "postgres://relay@db.example/x"),
            ("postgres://relay:s3cr/t@db.example/x", "postgres://…"),
            ("postgres://relay:s3cr?t@db.example/x", "postgres://…"),
            ("postgresql://db/x?password=s3cret", "postgresql://db/x"),
            ("postgres:///x?host=/run/postgresql", "postgres:///x"),
            ("nonsense", "…"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    proptest! {
        #[test]
        fn no_password_comes_through(password in "[a-z/?#@:%]{0,8}SECRET[a-z/?#@:%]{0,8}") {
            let url = format!("postgres://relay:{password}@db.example/x");
            prop_assert!(!without_password(&url).contains("SECRET"), "{}", without_password(&url));
        }
    }
}
