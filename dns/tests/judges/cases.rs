//! Cases of this repository, for each rule of the RFCs: `tests/cases`, whose README has their form.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use domain::base::Rtype;
use sealpost_tests::name_server::{Software, ZoneFiles};

use crate::client::{Question, ask_all};
use crate::contestants::{Contestant, ours, reference};
use crate::message::Answer;
use crate::presentation::{Shown, record};

/// One question and what is right.
#[derive(Debug, Default)]
struct Case {
    /// File and line.
    place: String,
    question: Option<Question>,
    rcode: String,
    authoritative: bool,
    answer: BTreeSet<String>,
    some: BTreeSet<String>,
    authority: BTreeSet<String>,
    glue: BTreeSet<String>,
    /// References that need not be right.
    except: Vec<String>,
}

/// A zone of the cases.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) apex: String,
    pub(crate) text: String,
    /// The references that refuse to load it.
    without: Vec<String>,
}

/// All zones of the cases that every server loads.
pub(crate) fn zones() -> Result<Vec<Zone>> {
    let (zones, _) = read()?;
    Ok(zones.into_iter().filter(|zone| zone.without.is_empty()).collect())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn read() -> Result<(Vec<Zone>, Vec<Case>)> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cases") {
            files.push(path);
        }
    }
    files.sort();
    let (mut zones, mut cases) = (Vec::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(&file)?;
        for (at, line) in text.lines().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("{name}:{}", at + 1);
            read_line(line, &place, &mut zones, &mut cases).with_context(|| place.clone())?;
        }
    }
    Ok((zones, cases))
}

fn read_line(line: &str, place: &str, zones: &mut Vec<Zone>, cases: &mut Vec<Case>) -> Result<()> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let (word, rest) = line.split_once(' ').context("a word alone")?;
    if word == "zone" {
        let words: Vec<&str> = rest.split(' ').collect();
        let [apex, file, ref without @ ..] = words[..] else { bail!("zone APEX FILE") };
        zones.push(Zone {
            apex: apex.to_owned(),
            text: fs::read_to_string(directory().join(file))?,
            without: without.iter().skip(1).map(|server| (*server).to_owned()).collect(),
        });
        return Ok(());
    }
    if word == "question" {
        let words: Vec<&str> = rest.split(' ').collect();
        let [name, rtype, ref rest @ ..] = words[..] else { bail!("question NAME TYPE [do]") };
        let dnssec = rest == ["do"];
        let question = Question { name: name.parse()?, rtype: rtype.parse()?, dnssec };
        cases.push(Case { place: place.to_owned(), question: Some(question), ..Case::default() });
        return Ok(());
    }
    let case = cases.last_mut().context("before the first question")?;
    match word {
        "status" => {
            let mut words = rest.split(' ');
            case.rcode = words.next().unwrap_or_default().to_owned();
            case.authoritative = words.next() == Some("aa");
        }
        "except" => case.except.push(rest.split(' ').next().unwrap_or_default().to_owned()),
        _ => {
            let section = match word {
                "answer" => &mut case.answer,
                "some" => &mut case.some,
                "authority" => &mut case.authority,
                "glue" => &mut case.glue,
                _ => bail!("{word} is not a word of cases"),
            };
            section.insert(record(rest)?.with_ttl());
        }
    }
    Ok(())
}

#[test]
fn own_cases() -> Result<()> {
    let (all, cases) = read()?;
    let mut objections = Vec::new();
    for software in [Software::Nsd, Software::Knot] {
        let served = files(
            all.iter().filter(|zone| !zone.without.iter().any(|name| name == software.name())),
        )?;
        if let Some(reference) = reference(software, &served)? {
            objections.extend(judge(&reference, &cases)?);
        }
    }
    objections.extend(judge(&ours(&files(all.iter())?)?, &cases)?);
    ensure!(objections.is_empty(), "{}", objections.join("\n"));
    Ok(())
}

fn files<'a>(zones: impl Iterator<Item = &'a Zone>) -> Result<ZoneFiles> {
    let mut files = ZoneFiles::new()?;
    for zone in zones {
        files.add(&zone.apex, &zone.text)?;
    }
    Ok(files)
}

/// What the server answers otherwise.
fn judge(server: &Contestant, cases: &[Case]) -> Result<Vec<String>> {
    let questions: Vec<Question> = cases.iter().filter_map(|case| case.question.clone()).collect();
    let answers = ask_all(server.address, &questions).context(server.name)?;
    let mut objections = Vec::new();
    for ((case, question), bytes) in cases.iter().zip(&questions).zip(&answers) {
        if case.except.iter().any(|name| name == server.name) {
            continue;
        }
        let objection = match Answer::parse(question, bytes) {
            Ok(got) if case.accepts(&got) => continue,
            Ok(got) => got.describe(),
            Err(error) => format!("{error:#}"),
        };
        objections.push(format!("{}: {} {question}: {objection}", case.place, server.name));
    }
    println!("{}: {} of {} cases", server.name, cases.len() - objections.len(), cases.len());
    Ok(objections)
}

impl Case {
    fn accepts(&self, got: &Answer) -> bool {
        let texts = |section: &BTreeSet<Shown>| -> BTreeSet<String> {
            section.iter().map(Shown::with_ttl).collect()
        };
        let answer = texts(&got.answer);
        let right = if self.some.is_empty() {
            answer == self.answer
        } else {
            !answer.is_empty() && answer.is_subset(&self.some)
        };
        // Beside an answer they are a courtesy.
        let courtesy = |record: &&Shown| {
            record.rtype == Rtype::NS
                && !got.answer.is_empty()
                && !self.authority.contains(&record.with_ttl())
        };
        let authority: BTreeSet<String> =
            got.authority.iter().filter(|record| !courtesy(record)).map(Shown::with_ttl).collect();
        right
            && authority == self.authority
            && got.rcode.to_string() == self.rcode
            && got.authoritative == self.authoritative
            && !got.truncated
            && texts(&got.additional).is_superset(&self.glue)
    }
}
