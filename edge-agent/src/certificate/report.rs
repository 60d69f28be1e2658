//! What the owner is told of the certificate. Pure.

use serde::{Deserialize, Serialize};

use crate::status::date;

/// The state of the certificate, as `status --json` prints it. Times are in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The names that it is for, or is to be for.
    pub names: Vec<String>,
    /// The directory of the CA.
    pub directory: String,
    /// The account there.
    pub account: Option<String>,
    /// When the installed certificate ends; `None` while there is none.
    pub not_after: Option<u64>,
    /// When it is renewed.
    pub renew_at: Option<u64>,
    /// The digest of the installed public key.
    pub key: Option<String>,
    /// The digest of the next public key.
    pub next_key: Option<String>,
    /// What is waited for, if anything.
    pub waiting: Option<String>,
    /// What went wrong last, if it was not put right since.
    pub error: Option<String>,
    /// When it is tried again.
    pub retry_at: Option<u64>,
    /// What is to be known beside it, a sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// The lines for people.
    pub fn lines(&self, now: u64) -> Vec<String> {
        let ends = |at: u64| date(at);
        let (state, detail) = match (self.not_after, &self.error) {
            (Some(at), _) if at <= now => ("EXPIRED", format!("since {}", ends(at))),
            (Some(at), None) => {
                let renewal = self.renew_at.map(|at| format!(", renewed about {}", ends(at)));
                ("valid", format!("until {}{}", ends(at), renewal.unwrap_or_default()))
            }
            (Some(at), Some(_)) => ("WARNING", format!("valid until {}", ends(at))),
            (None, Some(_)) => ("FAILED", "there is none yet".into()),
            (None, None) => ("waiting", "there is none yet".into()),
        };
        let names = match self.names.as_slice() {
            [] => "no names are known yet".into(),
            names => names.join(" "),
        };
        let mut lines = vec![format!("certificate {state:<9} {detail}; {names}")];
        if let Some(error) = &self.error {
            let again = self.retry_at.map(|at| match at.saturating_sub(now) {
                0 => "; tried again now".into(),
                left if left < 120 => format!("; tried again in {left} s"),
                left => format!("; tried again in {} min", left / 60),
            });
            lines.push(format!("            {error}{}", again.unwrap_or_default()));
        }
        lines.extend(self.waiting.iter().map(|it| format!("            {it}")));
        lines.extend(self.notes.iter().map(|it| format!("            {it}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_how_it_is() {
        let now = 1_790_000_000;
        let mut report = Report { names: vec!["mx.a.example".into()], ..Report::default() };
        assert_eq!(report.lines(now), ["certificate waiting   there is none yet; mx.a.example"]);
        report.not_after = Some(now + 86_400);
        report.renew_at = Some(now + 3600);
        let line = &report.lines(now)[0];
        assert!(
            line.starts_with("certificate valid     until 2026-09-22, renewed about"),
            "{line}"
        );
        report.error = Some("ns2.example lacks the challenge".into());
        report.retry_at = Some(now + 600);
        let lines = report.lines(now);
        assert!(lines[0].contains("WARNING"));
        assert_eq!(lines[1].trim(), "ns2.example lacks the challenge; tried again in 10 min");
        assert!(report.lines(now + 90_000)[0].contains("EXPIRED"));
    }
}
