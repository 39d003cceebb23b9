//! From a file's text to typed objects, with the line and the field of what is wrong.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml_ng::{Deserializer, Value};

use super::{Manifest, ManifestError, Place, Sourced};
use crate::policy::PolicyObject;

/// What a file holds.
pub(super) struct ParsedFile {
    /// Its objects, in the order of the text.
    pub(super) objects: Vec<Sourced>,
    /// Objects of kinds that mean nothing here.
    pub(super) left_out: Vec<ManifestError>,
}

/// The fields that say what the rest is.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Parses all documents of a file, or none.
pub(super) fn parse_file(file: &Path, text: &str) -> Result<ParsedFile, ManifestError> {
    let file: Arc<Path> = file.into();
    let mut parsed = ParsedFile { objects: Vec::new(), left_out: Vec::new() };
    // A byte order mark, which some editors put first (YAML 1.2 section 5.2).
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (first_line, document) in documents(text) {
        let first_line = first_line + leading_lines(document);
        let place = Place { file: Arc::clone(&file), line: first_line };
        Document { place, text: document.trim_start_matches(is_blank_start) }.parse(&mut parsed)?;
    }
    Ok(parsed)
}

/// Splits at the lines that YAML reserves for it (YAML 1.2 section 9.1.2), with line numbers.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + 3, index + 1);
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

/// Blank lines before the text: an error's line counts from the first other one.
fn leading_lines(document: &str) -> usize {
    let start = document.len() - document.trim_start_matches(is_blank_start).len();
    document[..start].matches('\n').count()
}

fn is_blank_start(c: char) -> bool {
    c == '\n' || c == '\r'
}

struct Document<'a> {
    place: Place,
    text: &'a str,
}

impl Document<'_> {
    fn parse(&self, parsed: &mut ParsedFile) -> Result<(), ManifestError> {
        let value: Value = serde_yaml_ng::from_str(self.text).map_err(|e| self.syntax(&e))?;
        if value.is_null() {
            return Ok(());
        }
        let Ok(header) = Header::deserialize(&value) else {
            let message = "this is no Kubernetes object: it has no apiVersion and kind".to_owned();
            return Err(ManifestError::Syntax { place: self.place.clone(), message });
        };
        if let Some(kind) = header.kind.strip_suffix("List") {
            return self.parse_items(&value, kind, &header.api_version, parsed);
        }
        if header.kind.is_empty() {
            return Err(self.without_kind("kind".to_owned()));
        }
        let reader = YamlReader { document: self, value: &value };
        match manifest(&header, &reader)? {
            Some(manifest) => parsed.objects.push(Sourced { place: self.place.clone(), manifest }),
            None => parsed.left_out.push(self.unknown(header, &value)),
        }
        Ok(())
    }

    fn parse_items(
        &self,
        list: &Value,
        kind: &str,
        api_version: &str,
        parsed: &mut ParsedFile,
    ) -> Result<(), ManifestError> {
        let items = match list.get("items") {
            Some(Value::Sequence(items)) => items.as_slice(),
            None | Some(Value::Null) => &[],
            Some(_) => {
                return Err(ManifestError::Field {
                    place: self.place.clone(),
                    object: format!("{kind}List"),
                    field: "items".to_owned(),
                    message: "it is not a list".to_owned(),
                });
            }
        };
        for (index, item) in items.iter().enumerate() {
            let header = Header::deserialize(item).ok();
            let mut header =
                header.unwrap_or(Header { api_version: String::new(), kind: String::new() });
            if header.kind.is_empty() {
                kind.clone_into(&mut header.kind);
            }
            // A list of one kind has that kind's version; one of several has none to hand on.
            if header.api_version.is_empty() && !kind.is_empty() {
                api_version.clone_into(&mut header.api_version);
            }
            if header.kind.is_empty() {
                return Err(self.without_kind(format!("items[{index}].kind")));
            }
            let reader = ItemReader { document: self, index, item };
            match manifest(&header, &reader)? {
                Some(manifest) => {
                    parsed.objects.push(Sourced { place: self.place.clone(), manifest });
                }
                None => parsed.left_out.push(self.unknown(header, item)),
            }
        }
        Ok(())
    }

    fn unknown(&self, header: Header, value: &Value) -> ManifestError {
        let place = self.place.clone();
        let Header { kind, api_version } = header;
        // Others have policies of that name, too; those of Kubernetes are meant to be in force.
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if kind == "NetworkPolicy" && ["", "networking.k8s.io", "extensions"].contains(&group) {
            let object = object_name(&kind, value);
            return ManifestError::PolicyVersion { place, object, api_version };
        }
        ManifestError::UnknownKind { place, kind, api_version }
    }

    fn without_kind(&self, field: String) -> ManifestError {
        ManifestError::Field {
            place: self.place.clone(),
            object: "an object".to_owned(),
            field,
            message: "it is missing, so nobody can tell what the object is".to_owned(),
        }
    }

    fn syntax(&self, error: &serde_yaml_ng::Error) -> ManifestError {
        ManifestError::Syntax { place: self.place_of(error), message: without_place(error) }
    }

    /// The line of an error: the parser counts from the start of the document.
    fn place_of(&self, error: &serde_yaml_ng::Error) -> Place {
        let lines = error.location().map_or(0, |location| location.line().saturating_sub(1));
        Place { file: Arc::clone(&self.place.file), line: self.place.line + lines }
    }
}

/// Reads the object at hand as a `T`; two ways to get at its text.
trait Reader {
    fn read<T: DeserializeOwned>(&self, header: &Header) -> Result<Box<T>, ManifestError>;

    /// The object as it is.
    fn value(&self) -> &Value;

    fn fault(&self, header: &Header, path: &str, message: String) -> ManifestError;

    /// Reads a policy: what its `spec` says wrongly is its own fault, and not the file's.
    fn read_policy(&self, header: &Header) -> Result<Box<PolicyObject>, ManifestError> {
        let mut untyped = serde_json::to_value(self.value())
            .map_err(|error| self.fault(header, "spec", error.to_string()))?;
        if let Some(fields) = untyped.as_object_mut() {
            fields.insert("kind".to_owned(), header.kind.clone().into());
            fields.insert("apiVersion".to_owned(), header.api_version.clone().into());
        }
        PolicyObject::read(untyped).map(Box::new).map_err(|error| {
            self.fault(header, &error.path().to_string(), error.inner().to_string())
        })
    }
}

/// A document of its own: errors have a line.
struct YamlReader<'a> {
    document: &'a Document<'a>,
    value: &'a Value,
}

impl Reader for YamlReader<'_> {
    fn read<T: DeserializeOwned>(&self, header: &Header) -> Result<Box<T>, ManifestError> {
        let deserializer = Deserializer::from_str(self.document.text);
        serde_path_to_error::deserialize(deserializer).map(Box::new).map_err(|error| {
            ManifestError::Field {
                place: self.document.place_of(error.inner()),
                object: object_name(&header.kind, self.value),
                field: error.path().to_string(),
                message: without_path(error.inner(), &error.path().to_string()),
            }
        })
    }

    fn value(&self) -> &Value {
        self.value
    }

    fn fault(&self, header: &Header, path: &str, message: String) -> ManifestError {
        ManifestError::Field {
            place: self.document.place.clone(),
            object: object_name(&header.kind, self.value),
            field: path.to_owned(),
            message,
        }
    }
}

/// An item of a list: errors have the item's number and the line of the list.
struct ItemReader<'a> {
    document: &'a Document<'a>,
    index: usize,
    item: &'a Value,
}

impl Reader for ItemReader<'_> {
    fn read<T: DeserializeOwned>(&self, header: &Header) -> Result<Box<T>, ManifestError> {
        // The typed objects insist on their own apiVersion and kind, which items may leave out.
        let mut item = self.item.clone();
        if let Value::Mapping(fields) = &mut item {
            fields.insert("kind".into(), header.kind.clone().into());
            let api_version = match header.api_version.as_str() {
                "" => "v1",
                known => known,
            };
            fields.insert("apiVersion".into(), api_version.into());
        }
        serde_path_to_error::deserialize(item).map(Box::new).map_err(|error| {
            self.fault(header, &error.path().to_string(), error.inner().to_string())
        })
    }

    fn value(&self) -> &Value {
        self.item
    }

    fn fault(&self, header: &Header, path: &str, message: String) -> ManifestError {
        ManifestError::Field {
            place: self.document.place.clone(),
            object: object_name(&header.kind, self.item),
            field: format!("items[{}].{path}", self.index),
            message,
        }
    }
}

/// Reads an object of a known kind; `None` for all others.
fn manifest(header: &Header, reader: &impl Reader) -> Result<Option<Manifest>, ManifestError> {
    Ok(Some(match (header.api_version.as_str(), header.kind.as_str()) {
        ("v1" | "", "Node") => Manifest::Node(reader.read(header)?),
        ("v1" | "", "Namespace") => Manifest::Namespace(reader.read(header)?),
        ("v1" | "", "Pod") => Manifest::Pod(reader.read(header)?),
        ("v1" | "", "Service") => Manifest::Service(reader.read(header)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Manifest::EndpointSlice(reader.read(header)?),
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            Manifest::NetworkPolicy(reader.read_policy(header)?)
        }
        _ => return Ok(None),
    }))
}

/// The kind, and whatever there is of a namespace and a name.
fn object_name(kind: &str, value: &Value) -> String {
    let metadata = value.get("metadata");
    let text = |field: &str| metadata?.get(field)?.as_str();
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        _ => kind.to_owned(),
    }
}

/// The parser's message alone: the place tells the line, counted from the file's start.
fn without_place(error: &serde_yaml_ng::Error) -> String {
    let message = error.to_string();
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// The parser's message without the path, which the field tells.
fn without_path(error: &serde_yaml_ng::Error, path: &str) -> String {
    let message = without_place(error);
    let rest = message.strip_prefix(path).and_then(|rest| rest.strip_prefix(": "));
    rest.map(str::to_owned).unwrap_or(message)
}
