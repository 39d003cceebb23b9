//! Small C programs, compiled once and kept beside this one.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use super::PeerError;

/// For this machine's processor, as our own hot loops choose their instructions at run time.
const FLAGS: [&str; 4] = ["-O3", "-march=native", "-pthread", "-Wall"];

/// A C program, and what it is linked with.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// What to call it.
    pub name: &'a str,
    /// Its text.
    pub source: &'a str,
    /// As `pkg-config` knows it, and the Debian package that it is in.
    pub library: Option<(&'a str, &'static str)>,
}

/// Compiles a program unless that was done before; returns where it is.
///
/// # Errors
///
/// Fails without the library or a C compiler, or if it does not compile.
pub fn compile(program: &Program<'_>) -> Result<PathBuf, PeerError> {
    let mut arguments: Vec<String> = FLAGS.map(str::to_owned).into();
    let mut libraries = Vec::new();
    if let Some((library, package)) = program.library {
        let ask = |what| output(Command::new("pkg-config").args([what, library]));
        let (compiling, linking) = (ask("--cflags")?, ask("--libs")?);
        let (Some(compiling), Some(linking)) = (compiling, linking) else {
            return Err(PeerError::NotInstalled { package });
        };
        arguments.splice(0..0, compiling.split_whitespace().map(str::to_owned));
        libraries.extend(linking.split_whitespace().map(str::to_owned));
    }
    let mut hasher = DefaultHasher::new();
    (program.source, &arguments, &libraries).hash(&mut hasher);
    let name = format!("{}-{:016x}", program.name, hasher.finish());
    let folder = folder();
    let made = folder.join(&name);
    if made.exists() {
        return Ok(made);
    }
    let cannot_write = |source| PeerError::Write { path: folder.clone(), source };
    fs::create_dir_all(&folder).map_err(cannot_write)?;
    // Elsewhere until it is whole: another process may look for it.
    let building = TempDir::new_in(&folder).map_err(cannot_write)?;
    let (source, unfinished) = (building.path().join("source.c"), building.path().join(&name));
    fs::write(&source, program.source).map_err(cannot_write)?;
    let compiled = Command::new("cc")
        .args(&arguments)
        .arg(&source)
        .arg("-o")
        .arg(&unfinished)
        .args(&libraries)
        .output()
        .map_err(|source| PeerError::Run { program: "cc".into(), source })?;
    if !compiled.status.success() {
        let message = String::from_utf8_lossy(&compiled.stderr).trim().to_owned();
        return Err(PeerError::Compile { name: program.name.to_owned(), message });
    }
    fs::rename(&unfinished, &made).map_err(cannot_write)?;
    Ok(made)
}

/// A command's output if it succeeds.
fn output(command: &mut Command) -> Result<Option<String>, PeerError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| PeerError::Run { program, source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(text))
}

/// Beside this program: who can write there could change it, too.
fn folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    program.with_file_name("vrouter-perf-peers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_compiled_once_and_runs() {
        let source = "#include <stdio.h>\nint main(void) { puts(\"ready\"); return 0; }\n";
        let program = Program { name: "ready", source, library: None };
        let path = compile(&program).unwrap();
        assert_eq!(output(&mut Command::new(&path)).unwrap().as_deref(), Some("ready\n"));
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(compile(&program).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
    }

    #[test]
    fn a_library_that_is_not_there_is_told_by_its_package() {
        let library = Some(("no-such-library", "libnosuch-dev"));
        let program = Program { name: "missing", source: "", library };
        let error = compile(&program).unwrap_err().to_string();
        assert_eq!(error, "libnosuch-dev is not installed");
    }

    #[test]
    fn what_does_not_compile_says_where() {
        let program = Program { name: "wrong", source: "int main(void) { x }", library: None };
        let error = compile(&program).unwrap_err().to_string();
        assert!(error.starts_with("wrong does not compile:"), "{error}");
    }
}
