//! One line of a child's log. Pure.

use serde_json::{Map, Value};

/// A structured log line; what is no JSON object becomes one with only a message.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LogLine {
    fields: Map<String, Value>,
}

impl LogLine {
    /// Reads one line of stderr.
    pub(crate) fn parse(line: &str) -> Self {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Self { fields },
            _ => Self { fields: Map::from_iter([("message".to_owned(), Value::from(line))]) },
        }
    }

    /// What happened.
    pub(crate) fn message(&self) -> &str {
        self.text("message").unwrap_or("")
    }

    /// A field that is a string.
    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// A field that is a string, or a placeholder.
    pub(crate) fn or_dash(&self, field: &str) -> &str {
        self.text(field).unwrap_or("-")
    }

    /// A field that is a number.
    pub(crate) fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.as_u64()
    }

    /// Whether the program complains. A line without a level is no log line at all but, say, a
    /// panic or an error from before the log was set up.
    pub(crate) fn is_complaint(&self) -> bool {
        matches!(self.text("level"), Some("WARN" | "ERROR") | None)
    }

    /// Whether this is a given message with a given value in one field.
    pub(crate) fn is(&self, message: &str, field: &str, value: &str) -> bool {
        self.message() == message && self.text(field) == Some(value)
    }

    /// Message and fields in one line for people, without what only machines want.
    pub(crate) fn in_words(&self) -> String {
        let mut words = self.message().to_owned();
        for (field, value) in &self.fields {
            if matches!(field.as_str(), "message" | "timestamp" | "level" | "target") {
                continue;
            }
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            words.push_str(&format!(" {field}={value}"));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json_and_anything_else() {
        let line = LogLine::parse(
            r#"{"timestamp":"t","level":"INFO","message":"listening","service":"smtp","address":"127.0.0.1:1","n":3}"#,
        );
        assert!(line.is("listening", "service", "smtp"));
        assert_eq!(line.number("n"), Some(3));
        assert!(!line.is_complaint());
        assert_eq!(line.in_words(), "listening address=127.0.0.1:1 n=3 service=smtp");
        assert_eq!(LogLine::parse("thread panicked").message(), "thread panicked");
        assert_eq!(LogLine::parse("[1]").message(), "[1]");
        assert!(LogLine::parse("thread panicked").is_complaint());
    }
}
