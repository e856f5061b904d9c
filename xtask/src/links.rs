//! Checks that what the documents link to is there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Checks every link to a file, and to a heading of a Markdown file, in all Markdown files under `root`.
pub fn check(root: &Path) -> Result<()> {
    let mut documents = Vec::new();
    collect(root, &mut documents)?;
    let mut broken = Vec::new();
    let mut links = 0;
    for document in &documents {
        let text = read(document)?;
        for (line, target) in targets(&text) {
            links += 1;
            if let Err(reason) = follow(document, &text, &target) {
                broken.push(format!("{}:{line}: {target}: {reason}", document.display()));
            }
        }
    }
    if !broken.is_empty() {
        bail!("broken links:\n{}", broken.join("\n"));
    }
    eprintln!("{links} links in {} documents are sound", documents.len());
    Ok(())
}

fn collect(folder: &Path, documents: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name.starts_with("target") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), documents)?;
        } else if name.ends_with(".md") {
            documents.push(entry.path());
        }
    }
    documents.sort();
    Ok(())
}

/// Line number and target of each link to something in this repository.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, content) in prose(text) {
        // Code in a line may look like a link.
        for part in content.split('`').step_by(2) {
            for rest in part.split("](").skip(1) {
                let target = rest.split([')', ' ']).next().unwrap_or_default();
                if !target.contains("://") && !target.starts_with("mailto:") {
                    found.push((line, target.to_owned()));
                }
            }
        }
    }
    found
}

/// The numbered lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((index + 1, line))
    })
}

fn follow(document: &Path, text: &str, target: &str) -> Result<()> {
    let (file, heading) =
        target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)));
    let path = document.parent().unwrap_or(document).join(file);
    if !file.is_empty() && !path.exists() {
        bail!("no such file");
    }
    match heading {
        Some(heading) if file.is_empty() => has_heading(text, heading),
        Some(heading) if file.ends_with(".md") => has_heading(&read(&path)?, heading),
        _ => Ok(()),
    }
}

fn has_heading(text: &str, heading: &str) -> Result<()> {
    let place = format!("<a id=\"{heading}\">");
    let names = |line: &str| {
        line.contains(&place) || line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading
    };
    if !prose(text).any(|(_, line)| names(line)) {
        bail!("no such heading");
    }
    Ok(())
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_links_pass_and_each_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("docs")).unwrap();
        fs::write(dir.path().join("docs/b.md"), "# The `cost`, measured\n\n[up](../a.md)\n").unwrap();
        let sound = "[b](docs/b.md#the-cost-measured) [web](https://example.org/x) [here](#top) [place](#x-1)\n\n## Top\n\
                     <a id=\"x-1\"></a>\n\
                     ```\n[no](link)\n```\n`[no](link)`\n";
        fs::write(dir.path().join("a.md"), sound).unwrap();
        check(dir.path()).unwrap();

        fs::write(dir.path().join("a.md"), "[b](docs/c.md)\n[b](docs/b.md#the-price) [x](#y)\n").unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("a.md:1: docs/c.md: no such file"), "{error}");
        assert!(error.contains("a.md:2: docs/b.md#the-price: no such heading"), "{error}");
        assert!(error.contains("a.md:2: #y: no such heading"), "{error}");
    }
}
