//! The editors' page in a real Chromium: what an editor sees and does, with the pointer, with keys alone, on a phone, in the dark.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    page::{PASSWORD, Paged},
    webdriver::{Browser, ENTER, RIGHT, TAB},
};

/// axe-core, which `tests/run` gets from npm.
fn axe() -> Option<String> {
    let tool: PathBuf =
        Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/axe/node_modules/axe-core/axe.min.js");
    let text = std::fs::read_to_string(&tool).ok();
    if text.is_none() {
        eprintln!("SKIPPED: accessibility is not checked, for there is no {} (tests/run gets it)", tool.display());
    }
    text
}

/// No rule of axe is broken seriously on the page as it is.
fn assert_accessible(browser: &Browser, axe: Option<&String>, view: &str) {
    let Some(axe) = axe else { return };
    // By the devtools: the page's own policy runs no script of ours.
    browser.devtools("Runtime.evaluate", json!({ "expression": axe }));
    let script =
        "axe.run().then(found => found.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.target.join(' '))]))";
    let evaluated = browser
        .devtools("Runtime.evaluate", json!({ "expression": script, "awaitPromise": true, "returnByValue": true }));
    let violations = evaluated["result"]["value"].as_array().unwrap_or_else(|| panic!("{view}: {evaluated}")).clone();
    let serious: Vec<&Value> =
        violations.iter().filter(|v| matches!(v[0].as_str(), Some("serious" | "critical"))).collect();
    assert!(serious.is_empty(), "{view}: {serious:#?}");
}

/// Presses Tab until a node has the focus.
#[track_caller]
fn tab_to(browser: &Browser, selector: &str) {
    for _ in 0..80 {
        if browser.is(&format!("document.activeElement.matches({})", json!(selector))) == true {
            return;
        }
        browser.keys(TAB);
    }
    panic!("{selector} is not reached by Tab: {}", browser.is("document.activeElement.outerHTML"));
}

fn has_no_horizontal_scroll(browser: &Browser) {
    let widths = browser.is("[document.documentElement.scrollWidth, innerWidth]");
    assert!(widths[0].as_f64() <= widths[1].as_f64(), "{widths}");
}

/// All that it asked for since the last call lies below this address.
fn asks_nobody_but(browser: &Browser, origin: &str) {
    let asked = browser.requests();
    assert!(asked.len() > 10, "{asked:?}");
    // Over a network; a fresh window also shows pages of the browser's own.
    let elsewhere = asked.iter().filter(|url| url.starts_with("http") || url.starts_with("ws"));
    let elsewhere: Vec<_> = elsewhere.filter(|url| !url.starts_with(origin)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

fn log_in(browser: &Browser, page: &Paged) {
    browser.open(&format!("http://{}/", page.address));
    browser.fill("#password", PASSWORD);
    browser.keys(ENTER);
    browser.until("document.querySelectorAll('#results button').length == 4");
}

fn preview_is(browser: &Browser, width: u32, height: u32) {
    browser.until(&format!(
        "(p => p.complete && p.naturalWidth == {width} && p.naturalHeight == {height})(document.getElementById('preview'))"
    ));
}

#[test]
fn an_editor_gets_a_link() {
    let Some(browser) = Browser::start() else { return };
    let (page, axe) = (Paged::new(""), axe());
    let origin = format!("http://{}/", page.address);

    browser.open(&origin);
    assert_accessible(&browser, axe.as_ref(), "the login form");
    browser.shot("login");
    browser.fill("#password", "not the password");
    browser.keys(ENTER);
    browser.until("document.getElementById('says').textContent == 'That is not the password.'");
    assert_accessible(&browser, axe.as_ref(), "a wrong password");
    browser.shot("login-wrong");
    // 403, which the console has a line of.
    browser.complaints();
    log_in(&browser, &page);
    assert_eq!(browser.is("document.cookie"), "", "scripts do not see the session");

    browser.fill("#text", "port");
    browser.until("document.querySelectorAll('#results button').length == 1");
    browser.click("#results button");
    preview_is(&browser, 301, 451);
    browser.click("#fits label:nth-child(4)");
    browser.fill("#f-width", "60");
    browser.fill("#f-height", "30");
    browser.select("#f-format", "webp");
    browser.fill("#f-quality", "70");
    browser.until("document.getElementById('spec').value == 'fill-60x30|format-webp|webpquality-70'");
    preview_is(&browser, 60, 30);
    let made = browser.is("document.getElementById('made').textContent");
    assert!(made.as_str().unwrap().starts_with("60 × 30 · ") && made.as_str().unwrap().ends_with(" · WebP"), "{made}");
    assert!(browser.is("document.getElementById('original').textContent").as_str().unwrap().contains("JPEG"));
    assert_accessible(&browser, axe.as_ref(), "a chosen image");
    browser.shot("light");

    // Fields from a spec, and an error at its place.
    browser.fill("#spec", "max-50x40|grayscale");
    browser.until("document.querySelector('#fits input:checked').value == 'max'");
    assert_eq!(browser.is("document.querySelector('[name=grayscale]').checked"), true);
    browser.fill("#spec", "max-50x40|<b>bold</b>");
    browser.until("document.getElementById('spec-error').textContent.includes('at character 11')");
    assert_eq!(browser.is("document.getElementById('spec-mark').textContent"), "max-50x40|<b>bold</b>\n          ^");
    assert_eq!(browser.is("document.getElementById('spec-mark').querySelectorAll('b').length"), 1, "the mark's own");
    assert_eq!(browser.is("document.getElementById('copy').disabled"), true, "no link goes with an error");
    assert_accessible(&browser, axe.as_ref(), "an error");
    browser.shot("error");

    browser.fill("#spec", "fill-60x30|format-webp");
    preview_is(&browser, 60, 30);
    browser.devtools(
        "Browser.grantPermissions",
        json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] }),
    );
    browser.click("#copy");
    browser.until("document.getElementById('copied').textContent == 'The link is in the clipboard.'");
    let copied = browser.later("navigator.clipboard.readText()");
    assert_eq!(copied, browser.is("document.getElementById('url').value"));
    assert_eq!(page.site.gate("GET", &page.site.target(&copied), "").status, 200);

    // The focal point: dragged, by its keys, and as a cut in the link.
    browser.click("#focus-part summary");
    browser.until("document.getElementById('whole').naturalWidth > 0");
    let before = browser.is("document.getElementById('url').value");
    browser.drag("#stage", (0.5, 0.5), (0.9, 0.9));
    browser.until("Number(document.getElementById('p-y').value) > 350");
    browser.until("document.getElementById('note').textContent.includes('the link has the catalogue')");
    assert_eq!(browser.is("document.getElementById('url').value"), before, "a link carries no focal point");
    let x = browser.is("Number(document.getElementById('p-x').value)").as_f64().unwrap();
    browser.run("document.getElementById('point').focus()", json!([]));
    browser.keys(RIGHT);
    browser.until(&format!("Number(document.getElementById('p-x').value) > {x}"));
    browser.until("document.getElementById('crop').offsetTop > 50");
    assert_accessible(&browser, axe.as_ref(), "the focal point");
    browser.shot("focal-point");
    browser.click("#focus-crop");
    browser.until(
        "/^crop-0,(2|3)[0-9][0-9],301,15[0-9].fill-60x30.format-webp$/.test(document.getElementById('spec').value)",
    );
    preview_is(&browser, 60, 30);

    browser.click("#html-part summary");
    browser.select("#set", "article");
    browser.fill("#alt", "\"A\" <b>");
    browser.until("document.getElementById('html').textContent.includes('&quot;A&quot; &lt;b&gt;')");
    browser.until("document.getElementById('html').textContent.includes('<picture>')");
    let html = browser.is("document.getElementById('html').textContent");
    for part in ["<source type=\"image/webp\"", " 40w,", " 80w", "sizes=\"100vw\"", "<img src=\"", "width=\"80\""] {
        assert!(html.as_str().unwrap().contains(part), "{part}: {html}");
    }
    assert_accessible(&browser, axe.as_ref(), "HTML");

    browser.click("#to-status");
    browser.until("document.querySelectorAll('.plot').length > 4");
    assert_accessible(&browser, axe.as_ref(), "the status");
    browser.shot("status");
    browser.click("#logout button");
    browser.until("document.querySelector('#password') !== null");

    asks_nobody_but(&browser, &origin);
    // The console says what was refused by the policy, or thrown and not caught; answers such as 400 have a line there, too.
    let complaints = browser.complaints();
    assert!(complaints.iter().any(|line| line.contains("status of 400")), "{complaints:#?}");
    let bad = ["Content Security Policy", "Uncaught", "Error:"];
    assert!(!complaints.iter().any(|line| bad.iter().any(|word| line.contains(word))), "{complaints:#?}");
}

#[test]
fn by_keys_alone_on_a_phone_and_in_the_dark() {
    let Some(browser) = Browser::start() else { return };
    let (page, axe) = (Paged::new(""), axe());
    browser.media(&[("prefers-color-scheme", "dark"), ("prefers-reduced-motion", "reduce")]);
    log_in(&browser, &page);
    let dark = "getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.is(dark), "rgb(15, 19, 26)");
    assert_eq!(browser.is("getComputedStyle(document.querySelector('.bar span')).transitionDuration"), "0s");

    browser.run("document.body.focus()", json!([]));
    tab_to(&browser, ".skip");
    tab_to(&browser, "#text");
    browser.keys("land");
    browser.until("document.querySelectorAll('#results button').length == 1");
    tab_to(&browser, "#results button");
    browser.keys(ENTER);
    browser.until("document.getElementById('url').value != ''");
    tab_to(&browser, "#presets button");
    browser.keys(ENTER);
    preview_is(&browser, 160, 60);
    tab_to(&browser, "#fits input");
    browser.keys(RIGHT);
    tab_to(&browser, "#f-height");
    browser.keys("30");
    tab_to(&browser, "#spec");
    browser.until("document.getElementById('spec').value.startsWith('height-')");
    browser.fill("#spec", "height-30");
    browser.until(
        "!document.getElementById('copy').disabled && document.getElementById('url').value.includes('height-30')",
    );
    // No way leads to a button without effect.
    tab_to(&browser, "#copy");
    browser.keys(ENTER);
    browser.until("document.getElementById('copied').textContent == 'The link is in the clipboard.'");
    tab_to(&browser, "#focus-part summary");
    browser.keys(ENTER);
    tab_to(&browser, "#point");
    tab_to(&browser, "#html-part summary");
    assert_accessible(&browser, axe.as_ref(), "in the dark");
    browser.run("scrollTo(0, 0)", json!([]));
    browser.shot("dark");

    browser.screen(320, 640, true);
    browser.until("innerWidth == 320");
    has_no_horizontal_scroll(&browser);
    assert_accessible(&browser, axe.as_ref(), "on a phone");
    browser.shot("phone");
    for part in ["#fields details", "#html-part"] {
        browser.run("document.querySelector(arguments[0]).open = true", json!([part]));
    }
    browser.until("document.getElementById('html').textContent.includes('<img')");
    has_no_horizontal_scroll(&browser);
    browser.run("document.getElementById('spec').scrollIntoView()", json!([]));
    browser.shot("phone-look");
    browser.run("location.hash = '#status'", json!([]));
    browser.until(
        "document.querySelectorAll('.plot').length > 0 || document.getElementById('status-says').textContent != ''",
    );
    has_no_horizontal_scroll(&browser);
    browser.shot("phone-status");
}

/// Published by nginx with the README's lines, below a path of a site that has a page of its own at the root.
#[test]
fn it_works_behind_nginx_below_a_path() {
    let Some(browser) = Browser::start() else { return };
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, example) =
        readme.split_once("    location / {\n        proxy_pass http://127.0.0.1:8482;").expect("its lines");
    let (headers, _) = example.split_once("    }").unwrap();
    let Paged { site, address } = Paged::new("");
    let site = site.with_nginx_edited("gate.sock", |conf| {
        let below = format!("location /edit/ {{ proxy_pass http://{address}/; {headers} }}\n    location / {{");
        conf.replacen("location / {", &below, 1)
    });
    let root = format!("http://127.0.0.1:{}", site.nginx_port());
    browser.open(&format!("{root}/edit/"));
    browser.fill("#password", PASSWORD);
    browser.keys(ENTER);
    browser.until("document.querySelectorAll('#results button').length == 4");
    assert_eq!(browser.is("location.pathname"), "/edit/");
    browser.fill("#text", "port");
    browser.until("document.querySelectorAll('#results button').length == 1");
    browser.click("#results button");
    preview_is(&browser, 301, 451);
    browser.fill("#spec", "fill-60x30|format-webp");
    preview_is(&browser, 60, 30);
    let link = browser.is("document.getElementById('url').value");
    let target = link.as_str().and_then(|link| link.strip_prefix(&root)).unwrap_or_else(|| panic!("{link}"));
    assert_eq!(site.nginx("GET", target, "").status, 200);
    browser.shot("below-a-path");
    asks_nobody_but(&browser, &format!("{root}/edit/"));
    let refused: Vec<_> = browser.complaints().into_iter().filter(|line| line.contains("Security Policy")).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
