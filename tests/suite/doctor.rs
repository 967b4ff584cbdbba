//! `check --url` before a real nginx that somebody's hand has spoilt: each fault is put in, and exactly its cause is named.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use sendimage::{
    config::load,
    doctor::{Asked, Finding, Severity, examine},
};

use crate::{
    forward::Scripted,
    harness::{SENDIMAGE, Site, files, free_port, system_path, wait_for},
};

/// What all sites here say beside their mode: everything that can be lost.
const HEADERS: &str = "[headers]\naccess_control_allow_origin = \"https://app.example\"\n\
                       cross_origin_resource_policy = \"cross-origin\"\n";

/// An nginx with a config of its own, before a site's gate.
struct Front {
    child: Child,
    port: u16,
}

impl Front {
    /// What `proxy-conf` prints for a site and a port, as a hand left it.
    fn start(site: &Site, edit: impl FnOnce(String) -> String) -> Self {
        let port = free_port();
        let folder = site.path(&format!("nginx-{port}"));
        // A port may come again.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let printed = site.printed_conf("gate.sock", &folder, &[]);
        let printed = printed.replace(&format!("127.0.0.1:{}", site.nginx_port()), &format!("127.0.0.1:{port}"));
        Self::with(folder, port, &edit(printed))
    }

    /// A config as it is.
    fn with(folder: PathBuf, port: u16, conf: &str) -> Self {
        fs::write(folder.join("nginx.conf"), conf).unwrap();
        let log = fs::File::create(folder.join("stderr.log")).unwrap();
        let mut child = Command::new("nginx")
            .env("PATH", system_path())
            .args(["-g", "daemon off;", "-e", "stderr", "-p"])
            .arg(&folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .stderr(log)
            .spawn()
            .expect("nginx is installed (tests/run does it)");
        let said = || fs::read_to_string(folder.join("stderr.log")).unwrap_or_default();
        wait_for(Duration::from_secs(10), || {
            assert!(child.try_wait().unwrap().is_none(), "nginx ends: {}\n{conf}", said());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .unwrap_or_else(|()| panic!("nginx: {}", said()));
        Self { child, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn diagnose(site: &Site, url: &str) -> Vec<Finding> {
    let config = load(Some(&site.config())).unwrap().config;
    let asked = Asked { url: url.to_owned(), ..Asked::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(examine(&config, &asked)).unwrap()
}

/// The causes that were named, with a mark for warnings.
fn causes(findings: &[Finding]) -> BTreeSet<String> {
    let name = |finding: &Finding| Some(serde_json::to_value(finding.cause?).unwrap().as_str().unwrap().to_owned());
    findings.iter().filter_map(name).collect()
}

#[track_caller]
fn assert_named(name: &str, findings: &[Finding], cause: &str) {
    let said = serde_json::to_string_pretty(findings).unwrap();
    assert_eq!(causes(findings), BTreeSet::from([cause.to_owned()]), "{name}: {said}");
    let bad = findings.iter().find(|finding| finding.cause.is_some()).unwrap();
    assert!(bad.severity != Severity::Ok && bad.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{name}: {said}");
    assert!(!said.contains("0123456789abcdef"), "{name}: the key is told");
}

#[track_caller]
fn assert_healthy(name: &str, site: &Site, findings: &[Finding]) {
    let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
    assert!(bad.is_empty() && !findings.is_empty(), "{name}: {bad:#?}");
    let left = site.stored();
    assert!(left.is_empty(), "{name}: the canary is taken away: {left:?}");
}

fn site(config: &str) -> Site {
    Site::new(&format!("{config}{HEADERS}")).serve()
}

/// A line or piece of the printed config, in place of another that must be there.
fn change(conf: &str, from: &str, to: &str) -> String {
    assert!(conf.contains(from), "{from:?} is not in the printed config");
    conf.replace(from, to)
}

/// The same within one location.
fn change_in(conf: &str, location: &str, from: &str, to: &str) -> String {
    let start = conf.find(location).unwrap_or_else(|| panic!("no {location}"));
    let end = start + conf[start..].find("\n        }\n").map_or(conf.len() - start, |at| at + 11);
    // The end of the whole location, not of a block within it: the next location or the end.
    let end = conf[start + 10..].find("\n        location ").map_or(end, |at| at + start + 10);
    format!("{}{}{}", &conf[..start], change(&conf[start..end], from, to), &conf[end..])
}

const PUBLIC: &str = "location ^~ /images/";
const INTERNAL: &str = "location ^~ /_renditions/";
const AGAIN: &str = "location @again";

type Edit = fn(String, &Site) -> String;

/// What is wrong, the hand that did it, and what must be named.
const ACCEL: &[(&str, Edit, &str)] = &[
    // The causes of an X-Accel 404.
    ("alias without its slash", |c, _| change(&c, "/renditions/;", "/renditions;"), "alias_slash"),
    (
        "alias without its slash, and nobody asks again",
        |c, _| change(&change(&c, "error_page 404 = @again;", ""), "/renditions/;", "/renditions;"),
        "alias_slash",
    ),
    ("location without its slash", |c, _| change(&c, "^~ /_renditions/ {", "^~ /_renditions {"), "location_slash"),
    ("root in place of alias", |c, _| change_in(&c, INTERNAL, "alias ", "root "), "root_for_alias"),
    ("another folder", |c, _| change(&c, "/renditions/;", "/elsewhere/;"), "wrong_store"),
    (
        "a regex location that wins",
        |c, _| {
            let c = change(&c, INTERNAL, "location /_renditions/");
            let regex = "location ~* \\.(png|jpe?g|webp|avif)$ { root /var/www; expires 30d; }\n        location / {";
            change(&c, "location / {", regex)
        },
        "regex_takes_internal",
    ),
    (
        "no internal location",
        |c, s| {
            let c = change(&c, INTERNAL, "location ^~ /_other/");
            change(&c, &format!("{}/", s.path("renditions").display()), "/srv/pictures/")
        },
        "no_internal_location",
    ),
    ("another prefix", |c, _| change(&c, INTERNAL, "location ^~ /_pictures/"), "wrong_prefix"),
    (
        "no internal location, and everything else goes to the gate",
        |c, s| {
            let c = change(&c, INTERNAL, "location ^~ /_other/");
            let c = change(&c, &format!("{}/", s.path("renditions").display()), "/srv/pictures/");
            change_in(&c, "location / {", "return 404;", "proxy_pass http://sendimage;")
        },
        "no_internal_location",
    ),
    ("a location that is not internal", |c, _| change_in(&c, INTERNAL, "internal;", ""), "not_internal"),
    (
        "X-Accel-Redirect ignored",
        |c, _| change_in(&c, PUBLIC, "proxy_cache off;", "proxy_ignore_headers X-Accel-Redirect;"),
        "accel_ignored",
    ),
    (
        "X-Accel-Redirect passed on",
        |c, _| {
            let lines = "proxy_ignore_headers X-Accel-Redirect; proxy_pass_header X-Accel-Redirect;";
            change_in(&c, PUBLIC, "proxy_cache off;", lines)
        },
        "accel_passed_through",
    ),
    // The second look.
    ("nobody asks again", |c, _| change(&c, "error_page 404 = @again;", ""), "again_missing"),
    ("a status that stays", |c, _| change(&c, "error_page 404 = @again;", "error_page 404 @again;"), "again_status"),
    (
        "asked again unmarked",
        |c, _| change_in(&c, AGAIN, "proxy_set_header X-Sendimage-Again 1;", ""),
        "again_unmarked",
    ),
    (
        "asked again by the internal path",
        |c, _| change_in(&c, AGAIN, "http://sendimage$request_uri", "http://sendimage"),
        "again_target",
    ),
    // Headers.
    (
        "an add_header in an inner block",
        |c, _| {
            change_in(
                &c,
                INTERNAL,
                "internal;",
                "internal;\n            if ($request_method) { add_header X-Frame-Options DENY; }",
            )
        },
        "lost_headers",
    ),
    (
        "no security headers",
        |c, _| {
            let c = change_in(&c, INTERNAL, "add_header X-Content-Type-Options nosniff always;", "");
            change_in(&c, INTERNAL, "add_header Content-Security-Policy \"default-src 'none'; sandbox\" always;", "")
        },
        "lost_security",
    ),
    (
        "no CORS headers",
        |c, _| change_in(&c, INTERNAL, "add_header Access-Control-Allow-Origin", "add_header X-Other"),
        "lost_cors",
    ),
    (
        "no caching",
        |c, _| change_in(&c, INTERNAL, "add_header Cache-Control $upstream_http_x_sendimage_cache_control;", ""),
        "lost_caching",
    ),
    ("no Vary", |c, _| change_in(&c, INTERNAL, "add_header Vary $upstream_http_x_sendimage_vary;", ""), "lost_caching"),
    ("caching overruled", |c, _| change_in(&c, INTERNAL, "etag on;", "expires 1y;"), "caching_changed"),
    ("gzip for everything", |c, _| change_in(&c, INTERNAL, "gzip off;", "gzip on; gzip_types *;"), "compressed"),
    (
        "a filter that changes bytes",
        |c, _| {
            change_in(&c, INTERNAL, "gzip off;", "sub_filter_types *; sub_filter canary parrot; sub_filter_once off;")
        },
        "changed_bytes",
    ),
    ("no ranges", |c, _| change_in(&c, INTERNAL, "etag on;", "max_ranges 0;"), "no_ranges"),
    ("no validators", |c, _| change_in(&c, INTERNAL, "etag on;", "etag off;"), "no_validators"),
    // On the way in.
    (
        "a path that is written anew",
        |c, _| change_in(&c, PUBLIC, "http://sendimage;", "http://sendimage/images/;"),
        "target_rewritten",
    ),
    ("a prefix that is cut", |c, _| change_in(&c, PUBLIC, "http://sendimage;", "http://sendimage/;"), "prefix_changed"),
    (
        "a regex location that takes public URLs",
        |c, _| {
            let c = change(&c, PUBLIC, "location /images/");
            change(&c, "location / {", "location ~* \\.(png|jpg)$ { root /var/www; }\n        location / {")
        },
        "regex_takes_public",
    ),
    ("no public location", |c, _| change(&c, PUBLIC, "location ^~ /pictures/"), "no_public_location"),
    ("no gate", |c, _| change(&c, "gate.sock;", "no.sock;"), "gate_unreachable"),
    (
        "refusals replaced by pages",
        |c, _| {
            let lines = "proxy_intercept_errors on; error_page 403 /403.html;";
            change_in(&c, PUBLIC, "proxy_intercept_errors off;", lines)
        },
        "errors_intercepted",
    ),
    (
        "the second look for everybody",
        |c, _| change_in(&c, PUBLIC, "proxy_set_header X-Sendimage-Again \"\";", "proxy_set_header X-Other \"\";"),
        "again_from_outside",
    ),
    ("cookies to the gate", |c, _| change_in(&c, PUBLIC, "proxy_set_header Cookie \"\";", ""), "credentials_passed"),
    (
        "an address that a browser writes",
        |c, _| change_in(&c, PUBLIC, "proxy_set_header X-Real-IP $remote_addr;", ""),
        "client_address_spoofed",
    ),
    (
        "no address",
        |c, _| change_in(&c, PUBLIC, "proxy_set_header X-Real-IP $remote_addr;", "proxy_set_header X-Real-IP \"\";"),
        "client_address_lost",
    ),
    (
        "a connection for each request",
        |c, _| change_in(&c, PUBLIC, "proxy_set_header Connection \"\";", "proxy_set_header Connection close;"),
        "no_keepalive",
    ),
    ("headers that leak", |c, _| change_in(&c, PUBLIC, "proxy_hide_header X-Sendimage-Vary;", ""), "leaked_headers"),
    (
        "a redirect to somewhere",
        |c, _| change(&c, "server_tokens off;", "return 301 https://www.example.org$request_uri;"),
        "redirected",
    ),
];

#[test]
fn each_fault_of_nginxs_config_is_named() {
    let site = site("");
    {
        let front = Front::start(&site, |conf| conf);
        assert_healthy("as printed", &site, &diagnose(&site, &front.url()));
    }
    for (name, edit, cause) in ACCEL {
        let front = Front::start(&site, |conf| edit(conf, &site));
        assert_named(name, &diagnose(&site, &front.url()), cause);
    }
    // What nginx could not be made to remove, the gate was asked to.
    let left = site.stored();
    assert!(left.is_empty(), "{left:?}");
    assert!(!site.path("renditions/_renditions").exists(), "the decoy is gone");
}

/// A picture in place of a refusal's sentence, as the README has it: allowed as long as the status stays.
#[test]
fn a_picture_for_errors_is_said_and_no_fault() {
    let site = site("");
    fs::write(site.path("no-image.svg"), "<svg xmlns=\"http://www.w3.org/2000/svg\"/>").unwrap();
    let recipe = |conf: String, errors: &str| {
        let lines = format!("proxy_intercept_errors on; error_page {errors} /no-image.svg;");
        let conf = change_in(&conf, PUBLIC, "proxy_intercept_errors off;", &lines);
        let picture = format!(
            "location = /no-image.svg {{ internal; root {}; types {{ image/svg+xml svg; }} \
             add_header Cache-Control no-store always; }}\n        location / {{",
            site.folder.path().display()
        );
        change(&conf, "location / {", &picture)
    };
    let front = Front::start(&site, |conf| recipe(conf, "403 404 410 422"));
    let findings = diagnose(&site, &front.url());
    assert_healthy("a picture for errors", &site, &findings);
    let said = serde_json::to_string(&findings).unwrap();
    assert!(said.contains("with a picture of the web server's") && said.contains("serves as it should"), "{said}");
    drop(front);
    // One that comes as if it were the image.
    let front = Front::start(&site, |conf| recipe(conf, "403 =200"));
    assert_named("a picture with another status", &diagnose(&site, &front.url()), "errors_intercepted");
}

/// `--image`: catalogue, sources and workers have their say.
#[test]
fn an_image_of_the_operators_is_asked_for() {
    let site = site("");
    site.add("photo_land.jpg", "a.jpg");
    site.add("notimage.jpg", "bad.jpg");
    let front = Front::start(&site, |conf| conf);
    for (image, code, says) in [
        ("media/a.jpg", 0, "media/a.jpg comes as width-400: 200 image/jpeg"),
        ("media/none.jpg", 1, "[image_fails]"),
        ("media/bad.jpg", 1, "seen: 422 text/plain"),
        ("nowhere/a.jpg", 1, "no link to nowhere/a.jpg can be made"),
    ] {
        let url = front.url();
        let mut check = Command::new(SENDIMAGE);
        check.args(["check", "--url", &url, "--image", image, "-c"]).arg(site.config());
        let output = check.env("SENDIMAGE_SERVER__PUBLIC_URL", &url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{image}: {said}");
        assert!(said.contains(says), "{image}: {said}");
    }
}

#[test]
fn an_inner_proxy_eats_the_header() {
    let site = site("");
    for everything in [true, false] {
        let inner_port = free_port();
        let folder = site.path(&format!("inner-{inner_port}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let location = if everything { "/" } else { "/images/" };
        let inner = Front::with(
            folder.clone(),
            inner_port,
            &format!(
                "pid {0}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; \
                 fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\nserver {{ listen 127.0.0.1:{inner_port};\n\
                 location {location} {{ proxy_pass http://unix:{1}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}",
                folder.display(),
                site.path("gate.sock").display()
            ),
        );
        let behind = |conf: String| {
            let socket = format!("server unix:{};", site.path("gate.sock").display());
            change(&conf, &socket, &format!("server 127.0.0.1:{inner_port};"))
        };
        let outer = Front::start(&site, behind);
        assert_named("inner proxy", &diagnose(&site, &outer.url()), "inner_proxy");
        drop(inner);
        // With the fix that it names, all is well.
        let text = fs::read_to_string(folder.join("nginx.conf")).unwrap();
        let fixed = text.replace(
            "proxy_http_version",
            "proxy_ignore_headers X-Accel-Redirect X-Accel-Expires; proxy_pass_header X-Accel-Redirect; proxy_pass_header \
             X-Accel-Expires; proxy_http_version",
        );
        let _inner = Front::with(folder, inner_port, &fixed);
        assert_healthy("behind another proxy", &site, &diagnose(&site, &outer.url()));
    }
}

#[test]
fn files_that_nginx_may_not_read_are_named_with_the_folder() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: nginx's workers have another user than the tests only where these run as root");
        return;
    }
    let site = site("");
    let front = Front::start(&site, |conf| conf);
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    assert_healthy("readable", &site, &diagnose(&site, &front.url()));
    set(&site.path("renditions"), 0o700);
    let findings = diagnose(&site, &front.url());
    assert_named("a closed folder", &findings, "wrong_user");
    let said = serde_json::to_string(&findings).unwrap();
    assert!(said.contains("user nobody may not enter the folder"), "{said}");
    let remedy = format!("chmod o+x {}", site.path("renditions").display());
    assert!(said.contains(&remedy), "{said}");
    // A plain check sees it too, without asking anybody.
    let mut check = Command::new(SENDIMAGE);
    check.args(["check", "-c"]).arg(site.config()).env("SENDIMAGE_SERVER__PUBLIC_URL", front.url());
    let plain = String::from_utf8(check.output().unwrap().stdout).unwrap();
    assert!(plain.contains("[wrong_user]") && plain.contains(&remedy), "{plain}");
    set(&site.path("renditions"), 0o755);
    drop(front);

    // The socket, too.
    set(&site.path("gate.sock"), 0o600);
    let front = Front::start(&site, |conf| conf);
    let findings = diagnose(&site, &front.url());
    assert_named("a closed socket", &findings, "gate_unreachable");
    let said = serde_json::to_string(&findings).unwrap();
    assert!(said.contains("may not connect to it") && said.contains("server.listen_mode"), "{said}");
}

#[test]
fn a_link_on_the_way_to_the_store_is_named() {
    let site = Site::new(&format!("[store]\nexistence = \"check\"\n{HEADERS}"));
    fs::create_dir(site.path("disk")).unwrap();
    std::os::unix::fs::symlink(site.path("disk"), site.path("renditions")).unwrap();
    let site = site.serve();
    // Somebody's own line: as printed, the store's root itself may be a link.
    let from = format!("from={}", site.path("renditions").display());
    let front = Front::start(&site, |conf| change(&conf, &from, &format!("from={}", site.folder.path().display())));
    assert_named("a link", &diagnose(&site, &front.url()), "link_refused");
}

#[test]
fn the_other_modes_are_healthy_as_printed_and_their_faults_are_named() {
    let mode =
        |mode: &str| format!("[offload]\nmode = \"{mode}\"\nverdict_cache_seconds = 1\nredirect_url = \"/files/\"\n");
    let cases: &[(&str, &str, Edit, &str)] = &[
        ("auth_request", "as printed", |c, _| c, ""),
        (
            "auth_request",
            "another root",
            |c, _| change_in(&c, PUBLIC, "/renditions/;", "/elsewhere/;"),
            "verdict_unused",
        ),
        ("auth_request", "no verdicts", |c, _| change_in(&c, PUBLIC, "auth_request /_verdict;", ""), "verdict_unused"),
        (
            "auth_request",
            "no CORS",
            |c, _| change_in(&c, PUBLIC, "add_header Access-Control-Allow-Origin", "add_header X-Other"),
            "lost_cors",
        ),
        (
            "auth_request",
            "alias without its slash",
            |c, _| change_in(&c, INTERNAL, "/renditions/;", "/renditions;"),
            "alias_slash",
        ),
        ("redirect", "as printed", |c, _| c, ""),
        (
            "redirect",
            "nothing published",
            |c, _| change(&c, "location ^~ /files/", "location ^~ /other/"),
            "no_published_location",
        ),
        (
            "redirect",
            "no nosniff",
            |c, _| change(&c, "add_header X-Content-Type-Options nosniff always;", ""),
            "lost_security",
        ),
        ("direct", "as printed", |c, _| c, ""),
        (
            "direct",
            "a hidden header",
            |c, _| change_in(&c, PUBLIC, "proxy_cache off;", "proxy_hide_header Content-Security-Policy;"),
            "lost_security",
        ),
        ("direct", "no gate", |c, _| change(&c, "gate.sock;", "no.sock;"), "gate_unreachable"),
    ];
    let mut serving: Option<(&str, Site)> = None;
    for (name, fault, edit, cause) in cases {
        if serving.as_ref().is_none_or(|(of, _)| of != name) {
            serving = Some((name, site(&mode(name))));
        }
        let Some((_, site)) = &serving else { unreachable!() };
        let front = Front::start(site, |conf| edit(conf, site));
        let findings = diagnose(site, &front.url());
        match *cause {
            "" => assert_healthy(name, site, &findings),
            cause => assert_named(&format!("{name}, {fault}"), &findings, cause),
        }
    }
}

#[test]
fn other_keys_and_another_config_are_told_apart() {
    let site = site("");
    let front = Front::start(&site, |conf| conf);
    let running = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), running.replace("0123456789abcdef", "fedcba9876543210")).unwrap();
    assert_named("other keys", &diagnose(&site, &front.url()), "key_mismatch");
    fs::write(site.config(), running.replace("https://app.example", "https://other.example")).unwrap();
    assert_named("another config", &diagnose(&site, &front.url()), "other_config");
    fs::write(site.config(), running).unwrap();
    drop(front);
    let nobody = free_port();
    let findings = diagnose(&site, &format!("http://127.0.0.1:{nobody}"));
    assert_eq!(causes(&findings), BTreeSet::from(["unreachable".to_owned()]));
}

#[test]
fn wagtails_keys_presets_routes_and_tokens_have_canaries_too() {
    for (name, config) in [
        ("wagtail", "[signing]\nwagtail_keys = [\"a-sites-own-secret-key\"]\n"),
        ("presets", "[signing]\nsecret = \"0123456789abcdef\"\npresets_only = true\n[presets]\nhero = \"width-100\"\n"),
        ("routes", "[routes.a]\nprefix = \"/img/a/\"\n[routes.b]\nprefix = \"/b/\"\noffload = \"direct\"\n"),
        (
            "token",
            "[auth]\nmode = \"jwt\"\n[[auth.jwt.keys]]\nkid = \"a\"\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
        ),
    ] {
        let site = site(config);
        // An empty folder of originals is one that is not mounted.
        site.add("photo_land.jpg", "a.jpg");
        let front = Front::start(&site, |conf| conf);
        let output = Command::new(SENDIMAGE)
            .args(["check", "--json", "--url", &front.url(), "-c"])
            .arg(site.config())
            .output()
            .unwrap();
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        let about: Vec<_> = findings.iter().filter(|f| f["part"].as_str().unwrap().starts_with("url ")).collect();
        assert!(!about.is_empty() && about.iter().all(|f| f["severity"] == "ok"), "{name}: {about:#?}");
        assert!(output.status.success(), "{name}: {findings:#?}");
        assert!(site.stored().is_empty(), "{name}: the canary is taken away");
    }
}

#[test]
fn a_token_that_nginx_keeps_is_told_from_one_that_nobody_gave() {
    let site = site(
        "[auth]\nmode = \"jwt\"\n[[auth.jwt.keys]]\nkid = \"a\"\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
    );
    let front = Front::start(&site, |conf| {
        change_in(&conf, PUBLIC, "proxy_cache off;", "proxy_set_header Authorization \"\";")
    });
    // Without credentials, as the library is asked here.
    assert_named("none given", &diagnose(&site, &front.url()), "needs_credentials");
    let output =
        Command::new(SENDIMAGE).args(["check", "--url", &front.url(), "-c"]).arg(site.config()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("[credentials_lost]") && said.contains("fix:  location ^~ /images/"), "{said}");
}

/// A view that looks an image up by its id has no answer but no for a canary, and that is how it should be.
#[test]
fn a_site_that_knows_no_canary_is_no_fault() {
    let view = Scripted::start();
    let site =
        site(&format!("[auth]\nmode = \"forward\"\n[auth.forward]\nurl = \"{}\"\ncache_seconds = 0\n", view.url));
    // An empty folder of originals is one that is not mounted.
    site.add("photo_land.jpg", "a.jpg");
    let front = Front::start(&site, |conf| conf);
    let check = || {
        let output = site.run(&["check", "--url", &front.url(), "--header", "Cookie: session=1"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for no in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "302 Found"] {
        view.says(no, "");
        assert_named(no, &diagnose(&site, &front.url()), "needs_credentials");
        let (code, said) = check();
        assert_eq!(code, Some(0), "{no}: {said}");
    }
    // An image is another matter.
    let image = site.sign(&["media/a.jpg", "width-50"]);
    assert_eq!(site.gate("GET", &image, "Cookie: session=1\r\n").status, 403);
    view.says("500 Internal Server Error", "");
    let (code, said) = check();
    assert!(code == Some(1) && said.contains("[site_fails]") && said.contains(&view.url), "{said}");
    view.says("404 Not Found", "");
    drop(front);
    let front =
        Front::start(&site, |conf| change_in(&conf, PUBLIC, "proxy_cache off;", "proxy_set_header Cookie \"\";"));
    let output = site.run(&["check", "--url", &front.url(), "--header", "Cookie: session=1"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("[credentials_lost]"), "{said}");
}

#[test]
fn a_canary_is_of_use_to_nobody_else() {
    let site = site("");
    // An ordinary link to the canaries' source, by the key's own holder, has no end and is no canary.
    let config = load(Some(&site.config())).unwrap().config;
    let verifier = sendimage::access::Verifier::new(&config).unwrap();
    let path = format!("{}/file", "0".repeat(32));
    let subject = sendimage::access::Subject::Path { source: "canary.sendimage".into(), path: path.into() };
    let link = sendimage::access::Link::new(&subject, "original");
    let target = verifier
        .sign(&verifier.table().routes()[0], sendimage::access::Scheme::Native, &link, std::time::SystemTime::now())
        .unwrap();
    assert_eq!(site.gate("GET", &target, "").status, 404);
    assert!(site.stored().is_empty());
    // Nor can a config have a source of that name.
    let named = "[sources.\"canary.sendimage\"]\nkind = \"fs\"\nroot = \"/tmp\"\n";
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), text + named).unwrap();
    assert_eq!(site.run(&["check"]).status.code(), Some(78));
}

#[test]
fn a_database_in_wal_mode_that_cannot_be_read_is_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: another user's files can be tried as root only");
        return;
    }
    let site =
        Site::new("[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/site/db.sqlite3\"\nsource = \"media\"\n");
    let folder = site.path("site");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("db.sqlite3");
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('PRAGMA journal_mode=WAL')\n\
                  c.execute('CREATE TABLE wagtailimages_image (id INTEGER PRIMARY KEY, file TEXT, file_hash TEXT, focal_point_x INTEGER, \
                  focal_point_y INTEGER, focal_point_width INTEGER, focal_point_height INTEGER)')\nc.commit()\nc.close()\n";
    let made = Command::new("python3").args(["-c", script]).arg(&file).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: python3 makes the database, and is not installed");
        return;
    }
    // The service's user may read the file, and make none beside it.
    fs::create_dir(site.path("renditions")).unwrap();
    fs::set_permissions(site.path("renditions"), Permissions::from_mode(0o777)).unwrap();
    // Root's checkout may be closed to others.
    let binary = site.path("sendimage");
    if fs::hard_link(SENDIMAGE, &binary).is_err() {
        fs::copy(SENDIMAGE, &binary).unwrap();
    }
    let check = || {
        let mut command = Command::new(&binary);
        command.args(["check", "--json", "-c"]).arg(site.config()).uid(65534).gid(65534);
        let output = command.output().unwrap();
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        findings.into_iter().find(|finding| finding["part"] == "catalogue").unwrap()
    };
    let said = check();
    assert_eq!((&said["ok"], &said["cause"]), (&false.into(), &"sqlite_wal".into()), "{said:#}");
    assert!(said["fix"].as_str().unwrap().contains("journal_mode=DELETE"), "{said:#}");
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    assert_eq!(check()["ok"], true);
    assert!(!files(&folder).is_empty());
}
