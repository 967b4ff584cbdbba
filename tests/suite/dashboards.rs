//! The dashboard and the alerts name metrics and labels that exist, and the alerts fire when they should.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use sendimage::metrics::{Described, describe};
use serde_json::Value;

use crate::harness::Site;

fn deploy(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The dashboard's panels, rows left out.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&deploy("grafana/sendimage.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").cloned().collect()
}

/// The expressions of the alerts: what follows `expr:`, and the lines of a block.
fn alert_expressions() -> Vec<String> {
    let text = deploy("prometheus/alerts.yaml");
    let parts = text.split("expr: ").skip(1);
    parts
        .map(|part| part.split("\n        for:").next().unwrap().split("\n        labels:").next().unwrap().into())
        .collect()
}

fn expressions() -> Vec<String> {
    let panels = panels();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    asked.chain(alert_expressions()).collect()
}

/// The metrics that an expression names, each with its description.
fn named<'a>(expression: &str, known: &'a [Described]) -> Vec<(&'a Described, String)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = expression.match_indices("sendimage_").map(|(at, _)| &expression[at..]);
    starts
        .map(|rest| {
            let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
            let name = &rest[..end];
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let metric = known.iter().find(|metric| {
                metric.name == name || (metric.kind == "histogram" && Some(metric.name.as_str()) == base)
            });
            let matchers = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            (metric.unwrap_or_else(|| panic!("there is no metric {name}: {expression}")), matchers.to_owned())
        })
        .collect()
}

#[test]
fn expressions_name_metrics_and_labels_that_exist() {
    let known = describe();
    // What a running service shows is what is described.
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    assert_eq!(site.gate("GET", &site.sign(&["media/a.jpg", "width-50"]), "").status, 200);
    assert_eq!(site.gate("GET", "/images/x/media/width-50/a.jpg", "").status, 403);
    let shown = site.ops("/metrics").unwrap().text();
    let type_of = |metric: &Described| {
        let family = metric.name.strip_suffix("_total").unwrap_or(&metric.name);
        format!("# TYPE {family} {}\n", metric.kind)
    };
    for metric in &known {
        // A family is not shown before it has a member.
        let is_shown = shown.contains(&type_of(metric));
        assert!(is_shown || !metric.labels.is_empty(), "{metric:?} is not in\n{shown}");
    }
    for line in shown.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert!(known.iter().any(|metric| type_of(metric).trim_end() == line), "nothing describes {line}");
    }
    let expressions = expressions();
    assert!(expressions.len() > 30, "{}", expressions.len());
    let mut used = BTreeSet::new();
    for expression in &expressions {
        let metrics = named(expression, &known);
        // Prometheus adds these; le is a histogram's.
        let mut labels: BTreeSet<&str> = ["instance", "job", "le"].into();
        for (metric, matchers) in &metrics {
            used.insert(metric.name.as_str());
            let own: BTreeSet<&str> = labels.iter().copied().chain(metric.labels.iter().map(String::as_str)).collect();
            for matcher in matchers.split(',').map(str::trim).filter(|matcher| !matcher.is_empty()) {
                let label = matcher.split(['=', '!']).next().unwrap();
                assert!(own.contains(label), "{} has no label {label}: {expression}", metric.name);
            }
            labels.extend(own);
        }
        for by in expression.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(',').map(str::trim) {
                assert!(labels.contains(label), "there is no label {label} to group by: {expression}");
            }
        }
    }
    let unseen: Vec<_> = known.iter().map(|metric| metric.name.as_str()).filter(|name| !used.contains(name)).collect();
    assert!(unseen.is_empty(), "neither a panel nor an alert shows {unseen:?}");
}

/// Outcomes and other values that are written into expressions are ones that the service counts.
#[test]
fn expressions_name_outcomes_that_exist() {
    let known: Vec<_> = sendimage::metrics::Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
    for expression in expressions() {
        for part in expression.split("sendimage_requests_total{").skip(1) {
            let Some((_, rest)) = part.split('}').next().unwrap().split_once("outcome") else { continue };
            for word in rest.trim_start_matches(['=', '~', '"']).split('"').next().unwrap().split('|') {
                assert!(known.contains(&word), "{word}: {expression}");
            }
        }
    }
}

#[test]
fn every_panel_has_a_unit_a_sentence_and_a_place() {
    let panels = panels();
    assert!(panels.len() >= 15);
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        assert!(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{title}");
        let sentence = panel["description"].as_str().unwrap();
        assert!(sentence.len() > 20 && sentence.ends_with('.'), "{title}: {sentence}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}");
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(taken.insert((place("x") + x, place("y") + y)), "{title} lies on another");
        }
    }
}

/// Prometheus itself reads the rules, and its unit tests say that each alert fires where it should and none on a good day.
#[test]
fn promtool_takes_the_alerts_and_their_tests_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let Ok(output) = Command::new("promtool").args(arguments).current_dir(&folder).output() else {
            return eprintln!("SKIPPED: there is no promtool (Debian package prometheus) here");
        };
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let tests = deploy("prometheus/alerts_test.yaml");
    for alert in deploy("prometheus/alerts.yaml").split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        // Once where it fires, once on the good day.
        assert_eq!(tests.matches(&format!("- alertname: {name}\n")).count(), 2, "{name}");
    }
}

/// Who is woken by an alert finds in the README what to do.
#[test]
fn the_readme_says_what_to_do_about_each_alert() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, table) = readme.split_once("| alert | what it means | what to do |").expect("the README's table of alerts");
    let told: BTreeSet<&str> =
        table.lines().skip(2).map_while(|row| row.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    let alerts = deploy("prometheus/alerts.yaml");
    let defined: BTreeSet<&str> =
        alerts.split("- alert: ").skip(1).map(|alert| alert.lines().next().unwrap()).collect();
    assert_eq!(told, defined);
}
