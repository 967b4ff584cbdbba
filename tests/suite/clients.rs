//! The clients of `deploy/clients`: each in its own language, over the same vectors.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use sendimage::{
    access::{Link, Scheme, Subject, Verifier},
    config::{Config, Secret},
};
use serde_json::{Value, json};

use crate::{
    harness::{KEY, OPS_TOKEN, Site},
    python, vectors,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn client(language: &str) -> PathBuf {
    root().join("deploy/clients").join(language)
}

fn vectors_file() -> PathBuf {
    vectors::folder().join("native_urls.json")
}

fn rows(name: &str) -> Vec<Value> {
    vectors::json("native_urls.json")[name].as_array().unwrap().clone()
}

/// The path and query of a URL of the vectors.
fn target(url: &Value) -> &str {
    url.as_str().unwrap().strip_prefix("https://img.example.org").unwrap()
}

/// The command of a language, or `None`, said aloud, where it cannot be installed.
fn language(command: &str) -> Option<Command> {
    let there = Command::new(command).arg(if command == "go" { "version" } else { "--version" }).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Some(Command::new(command));
    }
    eprintln!("SKIPPED: there is no {command} here, so its client is not tested");
    None
}

/// What a client's driver printed, row by row as the vectors have it.
fn compare(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, field) in [("urls", "url"), ("sets", "urls"), ("expiries", "expires")] {
        let rows = rows(name);
        assert_eq!(said[name].as_array().unwrap().len(), rows.len());
        for (row, said) in rows.iter().zip(said[name].as_array().unwrap()) {
            assert_eq!(said, &row[field], "{row}");
        }
    }
    let refused = rows("refused");
    for (row, said) in refused.iter().zip(said["refused"].as_array().unwrap()) {
        assert_eq!(said, &Value::Bool(true), "{row} was signed");
    }
    assert_eq!((said["refused"].as_array().unwrap().len(), &said["half"]), (refused.len(), &Value::Bool(true)));
    let window = said["window"].as_str().unwrap();
    let expires: u64 = window.split_once("?expires=").unwrap().1.parse().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(expires.is_multiple_of(3600) && (now..now + 3700).contains(&expires), "{window}");
}

#[test]
fn python() {
    let Some(mut command) = language("python3") else { return };
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(root().join("tests/clients/python.py")).arg(vectors_file());
    command.arg(client("python"));
    compare(command);
    // One file in two places, so that each can be copied alone.
    let copy = std::fs::read(client("django/sendimage_django/client.py")).unwrap();
    assert!(std::fs::read(client("python/sendimage.py")).unwrap() == copy, "the copies differ");
}

#[test]
fn javascript() {
    for crypto in ["", "web"] {
        let Some(mut command) = language("node") else { return };
        command.arg(root().join("tests/clients/javascript.mjs")).arg(vectors_file()).arg(client("javascript"));
        command.args(Some(crypto).filter(|name| !name.is_empty()));
        compare(command);
    }
}

#[test]
fn php() {
    let Some(mut command) = language("php") else { return };
    command.arg(root().join("tests/clients/php.php")).arg(vectors_file()).arg(client("php"));
    compare(command);
}

#[test]
fn ruby() {
    let Some(mut command) = language("ruby") else { return };
    command.arg("-w").arg(root().join("tests/clients/ruby.rb")).arg(vectors_file()).arg(client("ruby"));
    compare(command);
}

#[test]
fn go() {
    let Some(mut command) = language("go") else { return };
    // A module of its own needs its driver within.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("driver")).unwrap();
    for name in ["go.mod", "sendimage.go"] {
        std::fs::copy(client("go").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::copy(root().join("tests/clients/main.go"), folder.path().join("driver/main.go")).unwrap();
    let within = |command: &mut Command| {
        let home = folder.path().join("home");
        command.current_dir(folder.path()).env("GOFLAGS", "-mod=mod").env("GOPATH", home).env("GO111MODULE", "on");
    };
    within(&mut command);
    let program = folder.path().join("vectors");
    let output = command.args(["build", "-o"]).arg(&program).arg("./driver").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut vet = Command::new("go");
    within(&mut vet);
    let output = vet.args(["vet", "./..."]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = Command::new(program);
    command.arg(vectors_file());
    compare(command);
}

/// The vectors themselves: what the service signs, by another implementation's count too.
#[test]
fn the_vectors_are_what_the_service_signs() {
    let mut config = Config::default();
    config.signing.secret = Some(Secret::new(KEY.into()));
    let verifier = Verifier::new(&config).unwrap();
    let route = &verifier.table().routes()[0];
    let all = rows("urls");
    assert!(all.len() > 180, "{}", all.len());
    for row in &all {
        let subject = Subject::of_reference(row["ref"].as_str().unwrap()).unwrap();
        let url = target(&row["url"]);
        // The decoration is what the row says, or what was chosen for it.
        let decoration = url.split('?').next().unwrap().rsplit('/').next().unwrap();
        let filename = percent_encoding::percent_decode_str(decoration).decode_utf8().unwrap();
        let link = Link {
            filename: row["filename"].as_str().unwrap_or(&filename),
            expires: row["expires"].as_u64(),
            download: row["download"].as_str(),
            ..Link::new(&subject, row["spec"].as_str().unwrap())
        };
        assert_eq!(verifier.sign(route, Scheme::Native, &link, SystemTime::now()).as_deref(), Some(url), "{row}");
    }
    for known in [
        "gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64/42/fill-100x100/",
        "lzDKeLQtl3Du06OULBfeMDfIWtYmVAyHAfZVh8rQjLs/media/",
    ] {
        assert!(all.iter().any(|row| target(&row["url"]).starts_with(&format!("/images/{known}"))), "{known}");
    }
    let Some(mut command) = language("python3") else { return };
    let output = command.arg(root().join("tests/clients/signatures.py")).arg(vectors_file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_vectors_are_signed_and_served_by_the_service() {
    let vectors = vectors::json("native_urls.json");
    let tables = |name: &str| -> String {
        vectors[name].as_object().unwrap().iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
    };
    let others = ["m", "Media_2", "a-b", "4x"];
    let sources: String =
        others.iter().map(|name| format!("[sources.{name}]\nkind = \"fs\"\nroot = \"{{dir}}/media\"\n")).collect();
    let site = Site::new(&format!(
        "{sources}[catalogue]\nkind = \"manifest\"\nfile = \"{{dir}}/images.json\"\nsource = \"media\"\n\
         [ops]\ntoken = \"{OPS_TOKEN}\"\n[presets]\n{}[preset_sets]\n{}",
        tables("presets"),
        tables("preset_sets"),
    ));
    let ids: Vec<Value> = [0, 7, 42, 1000].iter().map(|id| json!({"id": id, "file": "a.jpg"})).collect();
    std::fs::write(site.path("images.json"), Value::from(ids).to_string()).unwrap();
    site.add("photo_land.jpg", "a.jpg");
    let site = site.with_nginx().serve();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (mut signed, mut served) = (0, 0);
    for row in rows("urls") {
        let (reference, url) = (row["ref"].as_str().unwrap(), target(&row["url"]));
        if let Some((_, path)) = reference.split_once('/') {
            site.add("photo_land.jpg", path);
        }
        let expires = row["expires"].as_u64();
        if expires.is_some_and(|expires| expires < now + 7200) {
            continue; // its time has passed
        }
        let mut body = row.clone();
        let fields = body.as_object_mut().unwrap();
        fields.remove("url");
        // Half a window before its end: rounded up to it.
        expires.map(|expires| fields.insert("expires".into(), (expires - now - 1800).into()));
        assert_eq!(site.target(&site.called("/sign", body)["url"]), url, "{row}");
        signed += 1;
        if reference.len() < 20 || reference.contains('/') {
            let response = site.nginx("GET", url, "");
            assert_eq!(response.status, 200, "{row}: {}", response.text());
            assert!(
                row["download"].is_null() || response.header("content-disposition").unwrap().starts_with("attachment")
            );
            served += 1;
        }
    }
    for row in rows("sets") {
        for url in row["urls"].as_object().unwrap().values() {
            site.add("photo_land.jpg", "2024/café 1.jpg");
            let is_over = row["expires"].as_u64().is_some_and(|expires| expires <= now);
            assert_eq!(site.nginx("GET", target(url), "").status, if is_over { 403 } else { 200 }, "{row}");
        }
    }
    assert!(signed > 120 && served > 120, "{signed} {served}");
}

/// A Django project in a site's folder, whose MEDIA_ROOT is the source.
struct Project {
    python: PathBuf,
    site: Site,
    ops: String,
    has_wagtail: bool,
}

impl Project {
    fn new(python: PathBuf, has_wagtail: bool) -> Self {
        let catalogue = match has_wagtail {
            true => "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/db.sqlite3\"\nsource = \"media\"\n",
            false => "",
        };
        let site = Site::new(&format!(
            "{catalogue}[ops]\ntoken = \"{OPS_TOKEN}\"\n[presets]\nhero = \"fill-40x40|format-webp\"\n\
             [preset_sets]\narticle = [\"hero\", \"width-50\"]\n"
        ));
        std::fs::write(site.path("key"), format!("{KEY}\n")).unwrap();
        std::fs::write(site.path("token"), format!("{OPS_TOKEN}\n")).unwrap();
        let site = site.with_nginx().serve();
        let ops = format!("http://{}", site.ops);
        let project = Self { python, site, ops, has_wagtail };
        project.tool(&["prepare"]);
        project
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.current_dir(root().join("tests/clients/django")).arg("site_tool.py").args(arguments);
        command
            .env("PYTHONPATH", client("django"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DJANGO_SETTINGS_MODULE", "settings")
            .env("SITE_FOLDER", self.site.folder.path())
            .env("SITE_URL", format!("http://127.0.0.1:{}", self.site.nginx_port()))
            .env("SITE_OPS", &self.ops)
            .env("SITE_WAGTAIL", if self.has_wagtail { "1" } else { "" })
            // The token goes to sendimage and to nobody in between.
            .env("http_proxy", "http://127.0.0.1:9");
        command
    }

    /// What the project's tool printed, and its log. It ends once sendimage has been told.
    fn said(&self, arguments: &[&str]) -> (Value, String) {
        let output = self.command(arguments).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {log}");
        (serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), log)
    }

    fn tool(&self, arguments: &[&str]) -> Value {
        let (said, log) = self.said(arguments);
        assert_eq!(log, "", "{arguments:?}");
        said
    }
}

fn vector(name: &str) -> String {
    vectors::folder().join("images").join(name).display().to_string()
}

#[test]
fn a_django_site_warms_and_purges_as_it_saves_and_deletes() {
    let Some(python) = python::django() else { return };
    let mut project = Project::new(python, false);
    let (land, port) = (vector("photo_land.jpg"), vector("photo_port.jpg"));
    let stored = |project: &Project| project.site.stored().len();
    let calls = |project: &Project, call: &str| {
        project.site.metric(&format!("sendimage_ops_calls_total{{call=\"{call}\",outcome=\"done\"}}"))
    };

    // Two images, one of them in another folder with a name that has to be escaped.
    let saved = project.tool(&["save", &land, "a b+c é.jpg"]);
    let id = saved["id"].to_string();
    assert_eq!(stored(&project), 2, "a preset set is there before anybody asks: {}", project.site.log());
    let beside = project.tool(&["save", &port, "beside.jpg"])["id"].to_string();
    assert_eq!(stored(&project), 4);

    // A page, as a browser sees it, and a serializer's dict.
    let page = project.tool(&["page", &id]);
    let html = page["html"].as_str().unwrap();
    let (mut fetched, mut widths) = (0, Vec::new());
    for attribute in html.split('"').filter(|text| text.contains("/images/")) {
        for entry in attribute.replace("&amp;", "&").replace("&#x27;", "'").split(", ") {
            let (url, width) = entry.split_once(' ').unwrap_or((entry, ""));
            let target = project.site.target(&Value::from(url));
            let response = project.site.nginx("GET", &target, "");
            assert_eq!(response.status, 200, "{target}");
            widths.push(width.to_owned());
            fetched += 1;
        }
    }
    assert_eq!((fetched, widths.concat().as_str()), (5, "40w50w30w"), "{html}");
    assert!(html.contains("empty=()"), "no image, no URL: {html}");
    for url in page["urls"].as_object().unwrap().values().chain([&page["link"]]) {
        assert_eq!(project.site.nginx("GET", &project.site.target(url), "").status, 200, "{url}");
    }
    assert!(page["link"].as_str().unwrap().contains("?expires="), "{page}");
    let printed = project.site.sign(&[page["ref"].as_str().unwrap(), "--preset-set", "article"]);
    assert_eq!(printed.lines().next().unwrap(), project.site.target(&page["urls"]["hero"]));
    assert!(project.site.metric("sendimage_requests_total{outcome=\"hit\"}") >= 4.0, "they were warm");

    // Nothing has changed: nothing is purged, and nothing is made.
    let made = stored(&project);
    let purges = calls(&project, "purge");
    project.tool(&["touch", &id]);
    assert_eq!((stored(&project), calls(&project, "purge")), (made, purges));
    // A transaction that is rolled back has told nobody.
    let warms = calls(&project, "warm");
    project.tool(&["roll_back", &land]);
    assert_eq!((calls(&project, "warm"), calls(&project, "purge")), (warms, purges));

    // Another file in its place: the old one's renditions go, the new one's are there.
    let old: Vec<PathBuf> = project.site.stored();
    project.tool(&["replace", &id, &port, "new.jpg"]);
    let new = project.site.stored();
    assert_eq!(new.len(), 4, "{new:?}");
    assert_eq!(new.iter().filter(|path| old.contains(path)).count(), 2, "the neighbour's stay");
    // Another file under the same name.
    project.tool(&["overwrite", &id, &land]);
    let over = project.site.stored();
    assert_eq!((over.len(), over.iter().filter(|path| new.contains(path)).count()), (4, 2));

    project.tool(&["delete", &id]);
    assert_eq!(stored(&project), 2, "{}", project.site.log());
    project.tool(&["delete_all"]);
    assert_eq!(stored(&project), 0, "{beside} too");

    // Sendimage is away, or says nothing: saving takes no longer and does not fail.
    project.ops = "http://127.0.0.1:1".into();
    let (saved, log) = project.said(&["save", &land, "away.jpg"]);
    assert!(saved["id"].is_i64() && log.contains("sendimage was not told"), "{saved} {log}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    project.ops = format!("http://{}", silent.local_addr().unwrap());
    let began = Instant::now();
    let (saved, log) = project.said(&["save", &land, "silent.jpg"]);
    assert!(saved["seconds"].as_f64().unwrap() < 1.0, "{saved}");
    assert!(log.contains("timed out") && began.elapsed() < Duration::from_secs(20), "{log}");
    project.ops = format!("http://{}", project.site.ops);
    std::fs::write(project.site.path("token"), "another-token-of-nobody").unwrap();
    let (_, log) = project.said(&["save", &land, "refused.jpg"]);
    assert!(log.contains("401 Unauthorized") && !log.contains("another-token"), "{log}");
}

/// Wagtail's own image model, referred to by id. Wagtail takes a minute to install: `tests/run --long`.
#[test]
#[ignore = "installs Wagtail: tests/run --long"]
fn wagtails_images_are_warmed_and_purged_too() {
    let python = python::environment("wagtail", &["wagtail==8.0.1", "gunicorn", "pillow"], "import wagtail, gunicorn");
    let Some(python) = python else { return };
    let project = Project::new(python, true);
    let saved = project.tool(&["save_wagtail", &vector("photo_land.jpg"), "a.jpg"]);
    let id = saved["id"].to_string();
    assert_eq!(saved["ref"], Value::from(id.clone()));
    assert_eq!(project.site.stored().len(), 2, "{}", project.site.log());
    let before = project.site.stored();
    // Its row has changed, which the catalogue's cache need not know yet.
    project.tool(&["focus_wagtail", &id]);
    let after = project.site.stored();
    assert!(after.len() > before.len(), "a fill follows the focal point: {after:?}");
    assert_eq!(project.site.nginx("GET", &project.site.target(&saved["url"]), "").status, 200);
    project.tool(&["delete_wagtail", &id]);
    assert!(project.site.stored().is_empty(), "{:?}", project.site.stored());
}
