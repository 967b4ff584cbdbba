//! What is printed from the code: the README's reference, manual pages, completions of shells.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::SENDIMAGE;

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(SENDIMAGE).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a program says that reads a text, if this machine has it.
fn reads(program: &str, arguments: &[&str], text: &str) -> Option<String> {
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("SKIPPED: there is no {program} here");
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || drop(std::io::Write::write_all(&mut input, text.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(said)
}

#[test]
fn the_readmes_reference_is_what_the_code_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let (before, rest) = readme.split_once("<!-- printed by `sendimage reference`").unwrap();
    let (marker, rest) = rest.split_once("-->\n").unwrap();
    let (chapter, after) = rest.split_once("<!-- end of what is printed -->").unwrap();
    let reference = printed(&["reference"]);
    if std::env::var_os("SENDIMAGE_UPDATE_EXAMPLES").is_some() {
        let text = format!(
            "{before}<!-- printed by `sendimage reference`{marker}-->\n\n{reference}\n<!-- end of what is printed -->{after}"
        );
        return fs::write(&file, text).unwrap();
    }
    assert!(
        chapter.trim() == reference.trim(),
        "the README's reference is out of date: run the tests once with SENDIMAGE_UPDATE_EXAMPLES=1"
    );
    for word in ["`sign REF", "--expires", "[render]", "| 410 |", "`sendimage_requests_total` | counter | `outcome`"] {
        assert!(chapter.contains(word), "{word}");
    }
}

/// The pages are written, name each other, and mandoc and groff have nothing to say about them.
#[test]
fn manual_pages_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    printed(&["man", folder.path().to_str().unwrap()]);
    let mut pages: Vec<_> =
        fs::read_dir(folder.path().join("man1")).unwrap().map(|page| page.unwrap().path()).collect();
    pages.push(folder.path().join("man5/sendimage.toml.5"));
    assert!(pages.len() >= 11, "{pages:?}");
    let help = printed(&["--help"]);
    for page in &pages {
        let name = page.file_stem().unwrap().to_str().unwrap();
        let command = name.strip_prefix("sendimage-");
        assert!(command.is_none_or(|command| help.contains(command)), "{name}");
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains(&format!(".TH {name} ")) && text.contains(".SH NAME"), "{text}");
        // No date: the same source makes the same bytes. A blank line too many is how clap_mangen sets paragraphs apart.
        if let Some(said) = reads("mandoc", &["-T", "lint", "-W", "warning"], &text) {
            let is_meant =
                |line: &&str| !line.contains("missing date") && !line.contains("skipping paragraph macro: br");
            let said: Vec<_> = said.lines().filter(is_meant).collect();
            assert!(said.is_empty(), "{name}: {said:?}");
        }
        if let Some(said) = reads("groff", &["-K", "utf8", "-man", "-ww", "-z", "-T", "utf8", "-rLL=200n"], &text) {
            assert_eq!(said.trim(), "", "{name}");
        }
    }
    let sign = fs::read_to_string(folder.path().join("man1/sendimage-sign.1")).unwrap();
    assert!(sign.contains("expires") && sign.contains("sendimage sign"), "{sign}");
    assert!(printed(&["man"]).contains("sendimage\\-serve(1)"));
}

/// Each shell loads what is printed for it, and completes a command and an option from it.
#[test]
fn shells_complete_commands_and_options() {
    let bash = printed(&["completions", "bash"])
        + "\nfor words in 'sendimage exp' 'sendimage sign --exp'; do\n\
           read -ra COMP_WORDS <<<\"$words\"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()\n\
           _sendimage sendimage \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; echo \"${COMPREPLY[@]}\"; done\n";
    let said = reads("bash", &["--norc", "-s"], &bash).expect("bash is everywhere");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["explain", "--expires"]);

    let fish =
        printed(&["completions", "fish"]) + "\ncomplete -C 'sendimage exp'\ncomplete -C 'sendimage sign --exp'\n";
    if let Some(said) = reads("fish", &["--no-config"], &fish) {
        assert!(said.contains("explain\t") && said.contains("--expires\t"), "{said}");
    }
    if let Some(said) = reads("zsh", &["-fn"], &printed(&["completions", "zsh"])) {
        assert_eq!(said, "", "zsh reads it without a word");
    }
}
