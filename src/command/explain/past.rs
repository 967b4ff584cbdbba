//! Why a request was not served, from the log.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use serde_json::Value;

use super::{CommandError, Explanation, Steps};

/// Longest line that is looked at; the service writes none that long.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// What is told of a line, in this order, and how it is called.
const FIELDS: [(&str, &str); 7] = [
    ("timestamp", "time"),
    ("level", "level"),
    ("client", "client"),
    ("status", "status"),
    ("outcome", "outcome"),
    ("message", "says"),
    ("reason", "reason"),
];

/// Finds the lines of a request in a log of either format.
pub(super) fn explain(id: &str, log: &Path) -> Result<Explanation, CommandError> {
    let failed = |error: io::Error| anyhow::anyhow!("cannot read {}: {error}", log.display());
    let input: Box<dyn Read> = match log.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(log).map_err(failed)?),
    };
    let mut steps = Steps::default();
    let mut status = 0;
    let mut reader = BufReader::new(input);
    let mut line = Vec::new();
    while reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if let Some(found) = line_of(id, &String::from_utf8_lossy(&line)) {
            for (what, text) in found {
                if what == "status" {
                    status = text.parse().unwrap_or(status);
                }
                steps.add(what, text);
            }
        }
        line.clear();
    }
    if steps.0.is_empty() {
        return Err(anyhow::anyhow!(
            "no line of {} has the request id {id:?} (what is served is logged with log.level = \"debug\" only)",
            log.display()
        )
        .into());
    }
    Ok(Explanation { served: status == 0 || status < 400, status, steps: steps.0 })
}

/// The fields of a line that is about this request.
fn line_of(id: &str, line: &str) -> Option<Vec<(&'static str, String)>> {
    // Whatever is in front of it, a service manager's words say: the line itself begins with a brace, or is for people.
    let object: Option<Value> = line.find('{').and_then(|at| serde_json::from_str(line[at..].trim_end()).ok());
    if let Some(object) = object {
        if object.get("request.id").and_then(Value::as_str) != Some(id) {
            return None;
        }
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return Some(FIELDS.iter().filter_map(|(name, what)| Some((*what, text(object.get(*name)?)))).collect());
    }
    let (_, after) = line.split_once(&format!("request.id=\"{id}\""))?;
    // The reason is the last field, and the only one with spaces in it.
    let (fields, reason) = after.split_once(" reason=").unwrap_or((after, ""));
    let field = |name: &str| {
        let value = fields.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').trim_end().to_owned())
    };
    let found = FIELDS.iter().filter_map(|(name, what)| match *name {
        "reason" => Some((*what, reason.trim_end().to_owned())).filter(|(_, text)| !text.is_empty()),
        name => Some((*what, field(name)?)),
    });
    Some(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUMAN: &str = "2026-11-21T18:00:00.1Z  INFO not served request.id=\"ab12\" client=192.0.2.7 status=403 \
                         outcome=\"refused\" duration_ms=0.1 reason=refused: the link has expired\n";
    const JSON: &str = r#"Nov 21 host sendimage[1]: {"timestamp":"t","level":"INFO","message":"not served","request.id":"ab12","status":403,"outcome":"refused","reason":"refused: the link has expired"}"#;

    #[test]
    fn both_formats() {
        for line in [HUMAN, JSON] {
            let found = line_of("ab12", line).expect("it is there");
            assert!(found.contains(&("status", "403".into())), "{found:?}");
            assert!(found.contains(&("reason", "refused: the link has expired".into())), "{found:?}");
            assert_eq!(line_of("ab1", line), None);
            assert_eq!(line_of("ab123", line), None);
        }
        assert!(line_of("ab12", HUMAN).expect("it is there").contains(&("client", "192.0.2.7".into())));
        assert_eq!(line_of("ab12", "{"), None);
    }
}
