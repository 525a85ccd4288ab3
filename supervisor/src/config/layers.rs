//! Finds and reads what sets the configuration: flags, environment, drop-ins, main file. Judges no value.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{ConfigFile, KEYS, Shape, as_toml, variable};
use super::{ConfigError, Environment, Flags};
use crate::typed::{Layer, Place, Source, error};

/// No configuration is larger, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Everything that sets something.
pub(super) struct Typed {
    /// Strongest first.
    pub(super) layers: Vec<Layer<ConfigFile>>,
    /// Weakest first.
    pub(super) files: Vec<PathBuf>,
    pub(super) warnings: Vec<String>,
}

/// Reads all layers.
///
/// # Errors
/// [`ConfigError`]: a file that can't be read, or is no configuration.
pub(super) fn read(flags: &Flags, environment: &Environment) -> Result<Typed, ConfigError> {
    let mut layers = of_flags(flags)?;
    let mut warnings = Vec::new();
    layers.extend(of_variables(environment, &mut warnings)?);
    let mut files = Vec::new();
    let mut of_files = Vec::new();
    for path in paths(flags, environment)? {
        let text = text_of(&path)?;
        of_files.push(Layer::parse(Source::file(&path, text))?);
        files.push(path);
    }
    layers.extend(of_files.into_iter().rev());
    Ok(Typed {
        layers,
        files,
        warnings,
    })
}

/// A layer for each flag.
fn of_flags(flags: &Flags) -> Result<Vec<Layer<ConfigFile>>, ConfigError> {
    let path = |path: &Option<PathBuf>| match path.as_ref().map(|path| (path, path.to_str())) {
        None => Ok(Vec::new()),
        Some((_, Some(text))) => Ok(vec![text.to_owned()]),
        Some((path, None)) => Err(ConfigError::Other(format!(
            "{path:?}: a path of the configuration is UTF-8"
        ))),
    };
    let number = |n: Option<usize>| n.iter().map(usize::to_string).collect();
    let text = |text: &Option<String>| text.iter().cloned().collect();
    let given: [(&str, Vec<String>); 12] = [
        ("functions", path(&flags.functions)?),
        ("state", path(&flags.state)?),
        ("run", path(&flags.run)?),
        ("listen", flags.listen.clone()),
        ("admin", path(&flags.admin)?),
        ("admin_listen", text(&flags.admin_listen)),
        ("workers", number(flags.workers)),
        ("secrets", path(&flags.secrets)?),
        ("degraded", flags.degraded.clone()),
        ("trusted", flags.trusted.clone()),
        ("user", text(&flags.user)),
        ("max_instances", number(flags.max_instances)),
    ];
    let mut layers = Vec::new();
    for (key, values) in given.into_iter().filter(|(_, values)| !values.is_empty()) {
        let flag = Place::Flag(format!("--{}", key.replace('_', "-")));
        layers.push(one_key(flag, key, &values.join(","))?);
    }
    Ok(layers)
}

/// A layer for each variable. An empty variable sets nothing, as if it were not there.
fn of_variables(
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Vec<Layer<ConfigFile>>, ConfigError> {
    let known: Vec<String> = KEYS.iter().map(|(key, _)| variable(key)).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).chain(["FUNCD_CONFIG"]).collect();
    let mut layers = Vec::new();
    for (name, value) in environment.vars.iter().filter(|(_, value)| !value.is_empty()) {
        if let Some((key, _)) = KEYS.iter().find(|(key, _)| variable(key) == *name) {
            layers.push(one_key(Place::Env(name.clone()), key, value)?);
        } else if name.starts_with("FUNCD_")
            && !name.starts_with("FUNCD_TEST_")
            && !name.starts_with("FUNCD_CARRIED")
            && name != "FUNCD_CONFIG"
        {
            let near = error::nearest(name, &known).map(|near| format!("; did you mean {near}?"));
            let near = near.unwrap_or_default();
            warnings.push(format!("environment variable {name} sets nothing{near}"));
        }
    }
    Ok(layers)
}

fn one_key(place: Place, key: &str, value: &str) -> Result<Layer<ConfigFile>, ConfigError> {
    let shape = KEYS.iter().find(|(known, _)| *known == key);
    let shape = shape.map_or(Shape::Text, |(_, shape)| *shape);
    let text = as_toml(key, shape, value);
    Ok(Layer::parse(Arc::new(Source { place, text }))?)
}

/// The files to read, weakest first.
fn paths(flags: &Flags, environment: &Environment) -> Result<Vec<PathBuf>, ConfigError> {
    let variable = environment
        .vars
        .get("FUNCD_CONFIG")
        .filter(|value| !value.is_empty());
    if let Some(named) = flags.config.clone().or(variable.map(PathBuf::from)) {
        return Ok(vec![environment.cwd.join(named)]);
    }
    let Some(folder) = folder(environment) else {
        return Ok(Vec::new());
    };
    let main = folder.join("funcd.toml");
    let mut drop_ins = BTreeMap::new();
    if environment.euid == 0 {
        list(&environment.root.join("usr/lib/funcd/conf.d"), &mut drop_ins)?;
    }
    // The operator's file masks the vendor's of the same name.
    list(&folder.join("conf.d"), &mut drop_ins)?;
    let main = main.exists().then_some(main);
    Ok(main.into_iter().chain(drop_ins.into_values()).collect())
}

/// The folder of the main file: `/etc/funcd`, or the user's own.
fn folder(environment: &Environment) -> Option<PathBuf> {
    if environment.euid == 0 {
        return Some(environment.root.join("etc/funcd"));
    }
    Some(xdg(environment, "XDG_CONFIG_HOME", ".config")?.join("funcd"))
}

/// A base directory of the XDG specification: absolute, or as if it were not set.
pub(super) fn xdg(environment: &Environment, name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = environment.vars.get(name)?;
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    absolute(name).or_else(|| Some(absolute("HOME")?.join(below_home)))
}

/// Adds the `*.toml` files of a drop-in folder; none when the folder is missing.
fn list(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ConfigError> {
    let failed = |e: std::io::Error| ConfigError::Read {
        path: folder.to_owned(),
        step: "can't list the drop-ins",
        why: e.to_string(),
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && name.ends_with(".toml")
            && !name.starts_with('.')
        {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

fn text_of(path: &Path) -> Result<String, ConfigError> {
    let failed = |why: String| ConfigError::Read {
        path: path.to_owned(),
        step: "can't read the configuration",
        why,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let limited = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    limited.map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(format!("it is larger than {MAX_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        failed(format!(
            "it is not UTF-8 from byte {} on",
            e.utf8_error().valid_up_to()
        ))
    })
}
