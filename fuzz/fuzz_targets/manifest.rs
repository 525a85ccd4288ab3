//! Any text as a function's manifest: read, or refused with its place. Never touches the file system.
#![no_main]

use std::path::Path;

use funcd::catalog::manifest::{Defaults, Manifest};
use funcd::name::FunctionName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let name = FunctionName::parse("f").expect("a name");
    match Manifest::read(
        &name,
        Path::new("f/function.toml"),
        Some(text),
        &Defaults::default(),
    ) {
        Ok(manifest) => {
            assert!(
                !manifest.exec.is_empty() && !manifest.exec.contains('/'),
                "{:?}",
                manifest.exec
            );
            assert!(manifest.scale.min <= manifest.scale.max && manifest.scale.max > 0);
            assert!(manifest.scale.concurrency > 0);
            assert!(manifest.routes.iter().all(|route| route.path.starts_with('/')));
            let paths = manifest.read.iter().chain(&manifest.write);
            assert!(paths.clone().all(|path| path.is_absolute()));
            assert!(
                manifest
                    .env
                    .iter()
                    .all(|(key, value)| !format!("{key}{value}").contains('\0'))
            );
            assert!(manifest.args.iter().all(|argument| !argument.contains('\0')));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // The same text as the host's defaults.
    let _ = Defaults::parse(text);
});
