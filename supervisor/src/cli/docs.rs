//! `funcd completions` and `funcd man`: both come from the definition of the command line.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::args::Cli;
use super::exit::Failure;
use super::output;

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    output::print(&String::from_utf8_lossy(&completion(shell)))
}

/// The completions for a shell.
pub(super) fn completion(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "funcd", &mut text);
    text
}

/// The man pages, by the names of their files: one per command that is not hidden.
pub(super) fn pages() -> Vec<(String, Vec<u8>)> {
    fn add(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) {
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            add(command, pages);
        }
        let page = clap_mangen::Man::new(command.clone());
        let mut text = Vec::new();
        page.render(&mut text).expect("writing to a Vec can't fail");
        pages.push((page.get_filename(), text));
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages);
    pages
}

pub(super) fn man(dir: Option<&Path>) -> Result<(), Failure> {
    match dir {
        Some(dir) => {
            fs::create_dir_all(dir)
                .map_err(|e| Failure::io(format_args!("can't make {}", dir.display()), &e))?;
            for (name, page) in pages() {
                let path = dir.join(name);
                fs::write(&path, page)
                    .map_err(|e| Failure::io(format_args!("can't write {}", path.display()), &e))?;
            }
            Ok(())
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut text)
                .expect("writing to a Vec can't fail");
            output::print(&String::from_utf8_lossy(&text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_man_page_per_command_and_none_for_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        man(Some(&dir.path().join("man1"))).unwrap();
        let pages: Vec<_> = fs::read_dir(dir.path().join("man1"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for page in ["funcd.1", "funcd-serve.1", "funcd-logs.1", "funcd-config-show.1"] {
            assert!(pages.contains(&page.to_owned()), "{page} is not among {pages:?}");
        }
        assert!(!pages.iter().any(|page| page.contains("supervisor")), "{pages:?}");
    }
}
