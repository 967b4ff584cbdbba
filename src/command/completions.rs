//! `sendimage completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, CommandResult};

/// Prints what a shell needs to complete commands and options.
#[derive(Debug, Args)]
#[command(after_help = "For the shells that you open from then on:
  sendimage completions bash > ~/.local/share/bash-completion/completions/sendimage
  sendimage completions zsh > ~/.zfunc/_sendimage          (with fpath+=~/.zfunc before compinit)
  sendimage completions fish > ~/.config/fish/completions/sendimage.fish")]
pub struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "sendimage", &mut script);
    super::print_bytes(&script)
}
