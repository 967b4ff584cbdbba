//! What the metrics are called, said by themselves: the README's table is printed from here.

use super::{CallLabels, CauseLabel, ClassLabel, KeyLabel, KindLabel, Metrics, OutcomeLabel, RenderLabels, StageLabel};

/// One metric, as an operator reads of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As it is asked for: a counter's name ends in `_total`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// The names of its labels, `le` left out.
    pub labels: Vec<String>,
    /// What it counts.
    pub help: String,
}

/// Every metric, in the order of the exposition.
pub fn describe() -> Vec<Described> {
    let text = with_one_of_each().expose();
    let mut all: Vec<Described> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let help = help.trim_end_matches('.').to_owned();
            all.push(Described { name: name.into(), kind: String::new(), labels: Vec::new(), help });
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let Some(metric) = all.last_mut() else { continue };
            metric.kind = kind.into();
            if kind == "counter" {
                metric.name += "_total";
            }
        } else if let (Some(metric), Some((_, labels))) = (all.last_mut(), line.split_once('{')) {
            for label in labels.split('}').next().unwrap_or_default().split("\",") {
                let name = label.split('=').next().unwrap_or_default().to_owned();
                if name != "le" && !metric.labels.contains(&name) {
                    metric.labels.push(name);
                }
            }
        }
    }
    all
}

/// A family shows its labels with its first member only. Made in a set of its own, which nobody else reads.
fn with_one_of_each() -> Metrics {
    let metrics = Metrics::new();
    let word = String::new;
    let outcome = || OutcomeLabel { outcome: word() };
    drop(metrics.renders.get_or_create(&RenderLabels { outcome: word(), format: word() }));
    drop(metrics.render_seconds.get_or_create(&StageLabel { stage: word() }));
    drop(metrics.workers_died.get_or_create(&CauseLabel { cause: word() }));
    drop(metrics.store_errors.get_or_create(&KindLabel { kind: word() }));
    drop(metrics.source_errors.get_or_create(&ClassLabel { class: word() }));
    drop(metrics.leases.get_or_create(&outcome()));
    drop(metrics.ops_calls.get_or_create(&CallLabels { call: word(), outcome: word() }));
    drop(metrics.warmed.get_or_create(&outcome()));
    drop(metrics.key_uses.get_or_create(&KeyLabel { key: word() }));
    metrics.evicted(&word(), 0, 0);
    drop(metrics.page_logins.get_or_create(&outcome()));
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described() {
        let all = describe();
        // A family without a member is not shown at all: it would be missing here, unseen.
        let source = include_str!("../metrics.rs").split("#[cfg(test)]").next().expect("the code");
        let registered = source.matches("&mut registry,").count();
        assert_eq!(all.len(), registered, "a family needs a member in with_one_of_each: {all:?}");
        for metric in all {
            assert!(metric.name.starts_with("sendimage_") && metric.help.len() > 10, "{metric:?}");
            assert!(["counter", "gauge", "histogram"].contains(&metric.kind.as_str()), "{metric:?}");
        }
    }
}
