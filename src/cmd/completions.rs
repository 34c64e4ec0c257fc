//! `catstore completions SHELL`: prints completions for a shell.

use super::{Cli, output};
use crate::error::Result;
use clap::CommandFactory;

/// Arguments of `catstore completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

impl Args {
    /// Prints the completions.
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "catstore", &mut script);
        output::write(&script)
    }
}
