//! The documents: links lead somewhere, commands name files that exist, and the sidecar accepts every config that a reader may
//! copy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use okg_sidecar::config::{Config, MAPS};
use regex::Regex;
use serde::Deserialize;
use serde_json::json;
use serde_yaml::Value;
use stand_ins::control_plane::kustomize::{build_of_user, kubectl};
use stand_ins::not_run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Markdown file of the repository.
struct Document {
    /// From the root of the repository.
    path: PathBuf,
    lines: Vec<Line>,
}

/// A line, and the language of the fenced block that it stands in, if any.
struct Line {
    number: usize,
    text: String,
    language: Option<String>,
}

/// A fenced block.
struct Block<'d> {
    document: &'d Document,
    line: usize,
    text: String,
}

impl Document {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(root().join(&path)).expect("a document is readable text");
        let mut language: Option<String> = None;
        let mut lines = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let fence = text.trim_start().strip_prefix("```");
            if let Some(info) = fence {
                language = if language.is_some() { None } else { Some(info.trim().to_owned()) };
            } else {
                lines.push(Line { number: index + 1, text: text.to_owned(), language: language.clone() });
            }
        }
        assert_eq!(language, None, "{}: a fenced block does not end", path.display());
        Self { path, lines }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn prose(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.language.is_none())
    }

    /// The fenced blocks of a language, without the indentation of their first line.
    fn blocks(&self, language: &str) -> Vec<Block<'_>> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut last = 0;
        let mut indent = 0;
        for line in self.lines.iter().filter(|line| line.language.as_deref() == Some(language)) {
            if blocks.is_empty() || line.number != last + 1 {
                indent = line.text.len() - line.text.trim_start().len();
                blocks.push(Block { document: self, line: line.number, text: String::new() });
            }
            last = line.number;
            let block = blocks.last_mut().expect("one was just begun");
            block.text.push_str(line.text.get(indent..).unwrap_or_default());
            block.text.push('\n');
        }
        blocks
    }

    /// The anchors of the headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for line in self.prose() {
            let heading = line.text.trim_start_matches('#');
            if heading.len() == line.text.len() || !heading.starts_with(' ') {
                continue;
            }
            let slug = slug(heading);
            let numbered = (1..).map(|count| format!("{slug}-{count}"));
            let free = [slug.clone()].into_iter().chain(numbered).find(|slug| !anchors.contains(slug));
            anchors.extend(free);
        }
        anchors
    }
}

impl Block<'_> {
    fn place(&self) -> String {
        format!("{}:{}", self.document.name(), self.line)
    }
}

/// Every Markdown file, but for what a build or a fuzzer leaves.
fn documents() -> Vec<Document> {
    let mut documents = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository") {
            let entry = entry.expect("a file of the repository");
            let path = folder.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !["target", "corpus", ".git"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                documents.push(Document::read(path));
            }
        }
    }
    documents.sort_by(|one, other| one.path.cmp(&other.path));
    documents
}

/// GitHub's rule: lower case, spaces become hyphens, and of the rest letters, digits, hyphens and underscores stay.
fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The texts between each `before` and the next `after`.
fn between(text: &str, before: &str, after: &str) -> Vec<String> {
    let after_each = text.split(before).skip(1);
    after_each.filter_map(|rest| rest.split_once(after)).map(|(found, _)| found.to_owned()).collect()
}

/// A line without its code spans, in which brackets are no links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// A path from the root of the repository, `..` taken away; nothing if it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir if parts.pop() => {}
            _ => return None,
        }
    }
    Some(parts)
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let documents = documents();
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        documents.iter().map(|document| (document.path.as_path(), document.anchors())).collect();
    let mut broken = Vec::new();
    let mut seen = 0;
    for document in &documents {
        for line in document.prose() {
            for link in between(&without_code(&line.text), "](", ")") {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                seen += 1;
                let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
                let folder = document.path.parent().unwrap_or(Path::new(""));
                let path = if file.is_empty() { document.path.clone() } else { folder.join(file) };
                let target = normal(&path).filter(|path| root().join(path).exists());
                let leads = target.is_some_and(|path| {
                    anchor.is_none_or(|anchor| anchors.get(&*path).is_some_and(|known| known.contains(anchor)))
                });
                if !leads {
                    broken.push(format!("{}:{}: {link}", document.name(), line.number));
                }
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(seen > 100, "only {seen} links were found");
}

/// The words of a block of commands, each with the one before it.
fn words(commands: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    for line in commands.replace("\\\n", " ").lines() {
        let command = line.split(" #").next().unwrap_or_default();
        let command = if command.starts_with('#') { "" } else { command };
        let parts = command.split([' ', '=', '<', '(', ')', '"', '\'']).filter(|word| !word.is_empty());
        let mut before = String::new();
        for word in parts {
            words.push((before, word.to_owned()));
            before = word.to_owned();
        }
    }
    words
}

/// The file of the repository that a word of a command names, if it does.
fn named_file(before: &str, word: &str) -> Option<PathBuf> {
    let is_path = word.contains('/') || ["-f", "-k"].contains(&before);
    let elsewhere = word.starts_with(['/', '$', '~', '{', '>', '-'])
        || word.contains([':', '@', '*', '|'])
        // A key of Kubernetes, a registry, or a name of the reader's.
        || word.split_once('/').is_some_and(|(first, _)| {
            (first.contains('.') && !first.starts_with('.')) || first.chars().all(|c| c.is_ascii_uppercase())
        })
        // What a build or a fuzzer makes, a ref of git, and what the annotation okg-sidecar/may-write lists.
        || ["target", "fuzz/corpus", "refs/", "okg-sidecar/may-write", "pods/", "gameservers/"]
            .iter()
            .any(|made| word.starts_with(made));
    (is_path && !elsewhere).then(|| word.into())
}

#[test]
fn every_file_that_a_command_names_is_there() {
    let documents = documents();
    let mut missing = Vec::new();
    let mut seen = 0;
    for block in documents.iter().flat_map(|document| document.blocks("sh")) {
        for (before, word) in words(&block.text) {
            let Some(path) = named_file(&before, &word) else { continue };
            seen += 1;
            if !root().join(&path).exists() {
                missing.push(format!("{}: {}", block.place(), path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "files that are not there:\n{}", missing.join("\n"));
    assert!(seen > 5, "only {seen} files were found");
}

#[test]
fn every_file_that_the_text_names_is_there() {
    let documents = documents();
    let mut missing = Vec::new();
    let mut seen = 0;
    // The change log also names what was there once.
    for document in documents.iter().filter(|document| document.path != Path::new("CHANGELOG.md")) {
        for line in document.prose() {
            for code in line.text.split('`').skip(1).step_by(2) {
                let word = code.split([' ', ':']).next().unwrap_or_default();
                let is_ours = FOLDERS.iter().any(|folder| word.starts_with(folder));
                // Capitals stand for a name of the reader's.
                let is_placeholder =
                    word.contains(['*', '…']) || ["NAME", "RULE"].iter().any(|name| word.contains(name));
                if !is_ours || is_placeholder || word.starts_with("fuzz/corpus") {
                    continue;
                }
                seen += 1;
                if !root().join(word).exists() {
                    missing.push(format!("{}:{}: {word}", document.name(), line.number));
                }
            }
        }
    }
    assert!(missing.is_empty(), "files that are not there:\n{}", missing.join("\n"));
    assert!(seen > 40, "only {seen} files were found");
}

#[test]
fn the_index_of_the_tests_names_every_module() {
    let modules = fs::read_to_string(root().join("tests/main.rs")).unwrap();
    let index = fs::read_to_string(root().join("tests/README.md")).unwrap();
    let modules: Vec<&str> = modules.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 10, "only {} modules were found", modules.len());
    for module in modules {
        assert!(index.contains(&format!("`tests/{module}.rs`")), "tests/README.md does not name {module}.rs");
    }
}

/// The folders of the repository that documents name files of.
const FOLDERS: [&str; 7] = [".ci/", "deploy/", "docs/", "examples/", "fuzz/", "src/", "tests/"];

/// The config in an object, or in a part of one that a document shows; nothing if there is none.
fn config_in(value: &Value) -> Option<String> {
    if value["kind"] == "ConfigMap" {
        return value["data"]["config.yaml"].as_str().map(str::to_owned);
    }
    let first = value.get(0)?;
    let has = |key: &str| first.get(key).is_some();
    let endpoints = if has("url") {
        value.clone()
    } else if has("gameServerOpsState") || has("gameServerUpdatePriority") {
        endpoint(value)
    } else {
        return None;
    };
    Some(file(&endpoints))
}

fn endpoint(policies: &Value) -> Value {
    let text = "[{url: 'http://localhost', storageConfig: {type: InKube, inKube: {}}}]";
    let mut endpoints: Value = serde_yaml::from_str(text).expect("the test's own YAML");
    endpoints[0]["storageConfig"]["inKube"]["markerPolicies"] = policies.clone();
    endpoints
}

fn file(endpoints: &Value) -> String {
    let mut file: Value =
        serde_yaml::from_str("plugins: [{name: http_probe, config: {}}]").expect("the test's own YAML");
    file["plugins"][0]["config"]["endpoints"] = endpoints.clone();
    serde_yaml::to_string(&file).expect("YAML can be written")
}

#[test]
fn the_sidecar_accepts_every_config_that_can_be_copied() {
    let documents = documents();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for block in documents.iter().flat_map(|document| document.blocks("yaml")) {
        for object in serde_yaml::Deserializer::from_str(&block.text) {
            let value = Value::deserialize(object).unwrap_or_else(|error| panic!("{}: {error}", block.place()));
            let whole = value.get("plugins").is_some();
            let policies = value.get("markerPolicies").map(|policies| file(&endpoint(policies)));
            let Some(config) = whole.then(|| block.text.clone()).or(policies).or_else(|| config_in(&value)) else {
                continue;
            };
            // As deploy/ has it, which users copy.
            let variable =
                |name: &str| Some(if name == "OKG_SIDECAR_PROBE_HOSTS" { "loopback" } else { "gs-0" }.to_owned());
            let parsed = Config::parse(config.into_bytes(), &variable);
            let config = parsed.unwrap_or_else(|problems| panic!("{}: {}", block.place(), problems.join("\n")));
            // A part of a config is no example of a whole one.
            let warnings = if whole || value["kind"] == "ConfigMap" { config.warnings } else { Vec::new() };
            assert!(warnings.is_empty(), "{}: {warnings:?}", block.place());
            *seen.entry(block.document.name()).or_default() += 1;
        }
    }
    let seen: Vec<(&str, usize)> = seen.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(
        seen,
        [
            ("README.md", 1),
            ("README.zh-CN.md", 1),
            ("docs/configuration.md", 2),
            ("docs/configuration.zh-CN.md", 2),
            ("docs/games.md", 7),
            ("docs/games.zh-CN.md", 7),
            ("docs/migration.md", 19),
        ]
    );
}

#[test]
fn the_recording_of_the_demo_is_that_of_its_story() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("it is in the repository");
    let events = between(&read("examples/demo/src/story.rs"), ".event(\"", "\")?;");
    assert!(events.len() > 5, "{events:?}");
    let recording = read("docs/demo.svg");
    let mut rest = recording.as_str();
    for event in &events {
        let (_, after) = rest.split_once(event).unwrap_or_else(|| panic!("{event}: run examples/demo/record.sh"));
        rest = after;
    }
    assert!(!recording.contains("<script") && !recording.contains("href"), "it draws, and does nothing else");
}

/// What the kustomizations of the documents name. The game has an account of its own.
const GAME: &str = "
apiVersion: game.kruise.io/v1alpha1
kind: GameServerSet
metadata: {name: NAME}
spec:
  gameServerTemplate:
    spec:
      serviceAccountName: tank-war
      containers: [{name: game, image: game:1}]
";
const CONFIG_MAP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: okg-sidecar-config}, data: {}}";

#[test]
fn every_kustomization_that_can_be_copied_does_what_its_document_promises() {
    if kubectl().is_none() {
        return not_run("kubectl: run tests/envtest/build.sh once, or install it");
    }
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for document in documents() {
        for block in document.blocks("yaml").iter().filter(|block| block.text.contains("\nkind: Kustomization\n")) {
            let files = [
                ("kustomization.yaml", block.text.as_str()),
                ("configmap.yaml", CONFIG_MAP),
                ("gameserverset.yaml", &GAME.replace("NAME", "tank-war")),
                ("lobby.yaml", &GAME.replace("NAME", "lobby")),
                ("config.yaml", "a: b"),
            ];
            let objects = build_of_user(&files).unwrap_or_else(|why| panic!("{}: {why}", block.place()));
            let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind);
            let pod = &of_kind("GameServerSet").expect("each has one")["spec"]["gameServerTemplate"]["spec"];
            let account = pod["serviceAccountName"].as_str().expect("a component sets it");
            let volume = pod["volumes"][0]["configMap"]["name"].as_str().expect("a component adds it");
            if let Some(binding) = of_kind("RoleBinding") {
                let bound = json!({"kind": "ServiceAccount", "name": account, "namespace": "games"});
                let subjects = binding["subjects"].as_array().expect("a list");
                assert!(subjects.contains(&bound), "{}: {subjects:?}", block.place());
                let policy = of_kind("ValidatingAdmissionPolicy").expect("deploy/rbac brings it");
                let applies = policy["spec"]["matchConditions"][0]["expression"].as_str().expect("a condition");
                let pattern = between(applies, "matches('", "')").remove(0);
                let user = format!("system:serviceaccount:games:{account}");
                assert!(Regex::new(&pattern).unwrap().is_match(&user), "{}: {pattern}", block.place());
                assert!(!Regex::new(&pattern).unwrap().is_match(&format!("{user}-2")) || account == "okg-sidecar");
            }
            // Without the hash that kustomize gives a ConfigMap of a generator.
            let config = volume.split("-config").next().unwrap_or_default();
            let name = of_kind("ConfigMap").map_or(volume, |map| map["metadata"]["name"].as_str().expect("a name"));
            assert_eq!(volume, name, "{}", block.place());
            seen.entry(block.document.name()).or_default().push(format!("{account}, {config}"));
        }
    }
    let seen: Vec<(&str, Vec<&str>)> =
        seen.iter().map(|(name, pods)| (name.as_str(), pods.iter().map(String::as_str).collect())).collect();
    let ordinary = "okg-sidecar, okg-sidecar";
    let of_operations = vec!["tank-war, okg-sidecar", "okg-sidecar, lobby", ordinary];
    assert_eq!(
        seen,
        [("README.md", vec![ordinary]), ("README.zh-CN.md", vec![ordinary]), ("docs/operations.md", of_operations)]
    );
}

#[test]
fn the_documents_explain_every_key_that_the_parser_takes() {
    let keys: BTreeSet<&str> = MAPS.iter().flat_map(|map| map.keys).copied().collect();
    assert!(keys.len() > 30, "{keys:?}");
    let document = Document::read("docs/configuration.md".into());
    let prose: String = document.prose().map(|line| format!("{}\n", line.text)).collect();
    let explained = |key: &&&str| {
        [format!("`{key}`"), format!(".{key}`"), format!("`{key}.")].iter().any(|code| prose.contains(code))
    };
    let missing: Vec<&&str> = keys.iter().filter(|key| !explained(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not explain {missing:?}");
}

#[test]
fn the_chinese_pages_have_the_facts_of_the_english_ones() {
    for page in ["README", "docs/configuration", "docs/games"] {
        let [english, chinese] = [".md", ".zh-CN.md"].map(|end| facts(&Document::read(format!("{page}{end}").into())));
        assert!(english.len() > 40, "{page}.md: {english:?}");
        let missing: Vec<&String> = english.difference(&chinese).collect();
        lags(&format!("{page}.zh-CN.md"), missing.is_empty(), &missing);
    }
    let rows = ["docs/configuration.md", "docs/configuration.zh-CN.md"].map(|path| rows(&Document::read(path.into())));
    assert!(rows[0].len() > 30, "{rows:?}");
    lags("docs/configuration.zh-CN.md", rows[0] == rows[1], &rows[0]);
}

/// A Chinese page may lag behind the English one: a line names what it does not have yet. The tests' own capture of output
/// would hide it.
fn lags(page: &str, is_complete: bool, missing: &dyn std::fmt::Debug) {
    if !is_complete {
        let _ = writeln!(std::io::stderr(), "{page} lags behind the English page, which has {missing:?}");
    }
}

/// The numbers of the text, and what stands as code in it: what a translation keeps as it is.
fn facts(document: &Document) -> BTreeSet<String> {
    let number = Regex::new(r"\d[\d,.]*").expect("a regular expression");
    let link = Regex::new(r"\]\([^)]*\)").expect("a regular expression");
    let mut facts = BTreeSet::new();
    for line in document.prose() {
        let text = link.replace_all(&line.text, "");
        facts.extend(text.split('`').skip(1).step_by(2).map(str::to_owned));
        let numbers = number.find_iter(&text).map(|found| found.as_str().trim_end_matches(['.', ',']).to_owned());
        facts.extend(numbers);
    }
    facts
}

/// What stands as code in the first cells of the tables.
fn rows(document: &Document) -> Vec<String> {
    let first_cells = document.prose().filter_map(|line| line.text.strip_prefix("| ")?.split(" |").next());
    first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn what_the_checks_look_for_is_found() {
    assert_eq!(slug(" `inKube`, at least: 字段？"), "inkube-at-least-字段");
    assert_eq!(without_code("a `b` [c](d) `e](f)`"), "a ` [c](d) `");
    assert_eq!(normal(Path::new("docs/../a/./b")), Some("a/b".into()));
    assert_eq!(normal(Path::new("../a")), None);
    let named = |line: &str| -> Vec<PathBuf> {
        words(line).iter().filter_map(|(before, word)| named_file(before, word)).collect()
    };
    let paths = |paths: &[&str]| -> Vec<PathBuf> { paths.iter().map(Into::into).collect() };
    assert_eq!(named("kubectl apply -k deploy   # deploy/none"), paths(&["deploy"]));
    assert_eq!(named("check --config=a/b.yaml <c/d"), paths(&["a/b.yaml", "c/d"]));
    assert_eq!(named("tests/node.sh NAME \\\n  && .ci/run"), paths(&["tests/node.sh", ".ci/run"]));
    assert_eq!(named("kubectl exec POD -- /okg-sidecar check -l game.kruise.io/x=y"), paths(&[]));
    assert_eq!(named("podman run registry.example.com/a/b:1 OWNER/a"), paths(&[]));
}
