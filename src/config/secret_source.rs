//! Where secrets are kept: the text itself, a file, a variable, a systemd credential, a command.

use std::{path::Path, process::Command};

use figment::value::Value;

use super::environment;
use crate::secret::Secret;

/// Reads a secret; `Ok(None)` for empty text. The error says what is wrong, never the value.
pub(super) fn read(value: &Value) -> Result<Option<Secret>, String> {
    let Some(dict) = value.as_dict() else {
        let text = value.as_str().map(str::to_owned).or_else(|| {
            // A numeric secret from the environment arrives as a number.
            value.to_u128().map(|n| n.to_string())
        });
        let text = text.ok_or("not a secret")?;
        return Ok((!text.is_empty()).then(|| Secret::new(text)));
    };
    let mut keys = dict.iter();
    let (Some((kind, source)), None) = (keys.next(), keys.next()) else {
        return Err("a secret comes from exactly one place".to_owned());
    };
    let name = source.as_str().unwrap_or_default();
    let text = match kind.as_str() {
        "file" => file(Path::new(name))?,
        "env" => environment::variable(name).ok_or(format!("variable {name} is not set"))?,
        "credential" => {
            let directory = environment::variable("CREDENTIALS_DIRECTORY")
                .ok_or("systemd passed no credentials (LoadCredential= in the unit)")?;
            file(&Path::new(&directory).join(name))?
        }
        "command" => command(source)?,
        other => return Err(format!("\"{other}\" is no place for a secret")),
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(Secret::new(text.strip_suffix('\r').unwrap_or(text))))
}

fn file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn command(source: &Value) -> Result<String, String> {
    let words: Option<Vec<&str>> = source
        .as_array()
        .and_then(|a| a.iter().map(Value::as_str).collect());
    let words = words.ok_or("command is a list: [\"program\", \"argument\"]")?;
    let (program, arguments) = words.split_first().ok_or("the command is empty")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| format!("command {program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("command {program}: {}", output.status));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| "the command's output is no text")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
