"""What the name of a column suggests that it holds: a hint for people, never a reason to let data through.

English words and the usual clinical abbreviations, and the commonest German, French and Spanish ones.
A name that suggests nothing proves nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import TypeVar

from tacit.policy.column import Category
from tacit.policy.hipaa import HipaaIdentifier

__all__ = [
    "about_age",
    "about_birth",
    "about_text",
    "about_year",
    "suggested_category",
    "suggested_identifier",
]

Key = TypeVar("Key")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

# Phrases are separated by commas; "=" in front: the whole name and nothing else. The first match counts,
# so that "email address" is no address and "license plate" no licence.
_IDENTIFIERS: dict[HipaaIdentifier, str] = {
    "email": "email, e mail, =mail, mailaddress, emailaddress, courriel, correo electronico, =correo",
    "fax": "fax, telefax, faxnumber",
    "ip-address": "ip address, ip addr, ipaddress, ipaddr, ipv 4, ipv 6, =ip, client ip, remote ip",
    "url": "url, urls, uri, website, web site, homepage, webseite",
    "social-security-number": (
        "ssn, social security, socialsecurity, socialsecuritynumber, seguridad social, "
        "sozialversicherungsnummer, sozialversicherung, svnr, securite sociale"
    ),
    "medical-record-number": (
        "mrn, mrns, medical record, medicalrecord, record number, record no, hospital number, "
        "hospital no, unit number, chart number, chart no, chart id, patientennummer, "
        "krankenakte, aktenzeichen, dossier medical, =ipp, numero dossier, historia clinica, =nhc"
    ),
    "health-plan-number": (
        "insurance id, insurance number, insurance no, insured id, member id, memberid, "
        "member number, subscriber id, subscriber number, beneficiary id, beneficiary number, "
        "beneficiary, policy number, policy no, medicare, medicaid, hicn, mbi, health plan id, "
        "versichertennummer, versicherungsnummer, kvnr, krankenversicherung, numero assure, "
        "mutuelle, numero afiliado, poliza"
    ),
    "account-number": (
        "account, accounts, acct, iban, bank account, billing number, billing id, invoice number, "
        "credit card, creditcard, card number, cardnumber, konto, kontonummer, "
        "compte bancaire, numero compte, cuenta"
    ),
    "vehicle": (
        "vin, license plate, licence plate, plate number, number plate, vehicle, "
        "vehicle id, kfz, kennzeichen, fahrgestellnummer, immatriculation"
    ),
    "licence-number": (
        "license, licence, license number, licence number, certificate, certificate number, "
        "drivers license, driver license, fuhrerschein, fuehrerschein, permis, "
        "permis conduire, carnet conducir"
    ),
    "device": (
        "device id, deviceid, device serial, device identifier, serial number, serial no, "
        "serialnumber, udi, implant id, implant serial, mac address, macaddress, imei, "
        "seriennummer, geratenummer, geraetenummer, numero serie"
    ),
    "biometric": (
        "biometric, biometrics, fingerprint, finger print, fingerprints, voiceprint, voice print, "
        "faceprint, face embedding, iris scan, retina scan, retinal scan, palm print, "
        "fingerabdruck, empreinte digitale, huella, huella dactilar"
    ),
    "photograph": (
        "photo, photos, photograph, portrait, picture, headshot, selfie, avatar, face image, "
        "facial image, foto, lichtbild, passbild, photographie, fotografia"
    ),
    "telephone": (
        "phone, phones, telephone, tel, phonenumber, phone number, mobile, mobile number, "
        "cell phone, cellphone, telefon, telefonnummer, handy, handynummer, telefono, movil"
    ),
    "other": (
        "patient id, patientid, pat id, patid, subject id, subjectid, person id, personid, =pid, "
        "=id, =uuid, =guid, patient uuid, patient number, patient no, patient key, encounter id, "
        "encounterid, visit id, hadm id, stay id, admission id, case id, case number, case no, "
        "national id, nationalid, passport, passport number, nhs number, nhs no, nhsnumber, "
        "national insurance, tax id, steuernummer, personalausweis, fallnummer, fall id, =nir, "
        "=dni, =nie, =nif, accession number, accession no, barcode, specimen id, tattoo, "
        "identifiant patient, id paciente, username, user name, login"
    ),
    "date": (
        "date, dates, datetime, timestamp, dob, dod, yob, =birth, =born, birthdate, birthday, birth day, "
        "birth month, birth year, year of birth, month of birth, birthyear, dateofbirth, dateofdeath, admitdate, dischargedate, age, ages, datum, geburtsdatum, geburtstag, "
        "geburtsjahr, jahrgang, aufnahmedatum, entlassdatum, entlassungsdatum, sterbedatum, "
        "todesdatum, =alter, =naissance, annee naissance, annee de naissance, fecha, =nacimiento, "
        "ano nacimiento, ano de nacimiento, edad, idade"
    ),
    "geography": (
        "address, addresses, addr, street, streetname, house number, city, town, county, zip, "
        "zipcode, zip code, postcode, post code, postal, postal code, postalcode, postcodes, "
        "precinct, parish, neighborhood, neighbourhood, district, borough, municipality, village, "
        "latitude, longitude, =lat, =lon, =lng, =long, geocode, geohash, gps, coordinates, "
        "census tract, census block, msoa, lsoa, adresse, anschrift, strasse, hausnummer, plz, "
        "postleitzahl, =ort, wohnort, stadt, gemeinde, landkreis, ville, rue, code postal, "
        "codepostal, commune, departement, direccion, calle, ciudad, municipio, codigo postal, "
        "provincia"
    ),
    "name": (
        "=name, =names, =patient, first name, firstname, fname, last name, lastname, lname, "
        "middle name, middlename, mname, full name, fullname, given name, givenname, family name, "
        "familyname, maiden, maiden name, surname, forename, nickname, initials, patient name, "
        "patientname, pat name, subject name, person name, contact name, guardian name, "
        "next of kin, mother name, father name, mothers name, fathers name, employer, "
        "employer name, nachname, vorname, familienname, geburtsname, patientenname, =nom, prenom, "
        "nom naissance, nombre, nombres, apellido, apellidos"
    ),
}

_CATEGORIES: dict[Category, str] = {
    "racial-or-ethnic-origin": (
        "race, races, racial, ethnicity, ethnic, ethnic group, ethnic origin, skin color, "
        "skin colour, ethnie, ethnische, hautfarbe, origine ethnique, raza, etnia"
    ),
    "political-opinions": (
        "political, politics, party affiliation, political party, voter, voted, partei, "
        "parteizugehorigkeit, politique, politico"
    ),
    "religious-or-philosophical-beliefs": (
        "religion, religious, faith, denomination, belief, beliefs, church, philosophical, "
        "konfession, religionszugehorigkeit, croyance, religieux, creencia"
    ),
    "trade-union-membership": (
        "trade union, labor union, labour union, union member, union membership, gewerkschaft, "
        "syndicat, sindicato"
    ),
    "genetic": (
        "gene, genes, genetic, genetics, genome, genomic, genotype, exome, snp, snps, mutation, "
        "mutations, allele, dna, brca, brca 1, brca 2, karyotype, haplotype, hla, apoe, "
        "genvariante, genetique, genetico"
    ),
    "biometric": _IDENTIFIERS["biometric"],
    "health": (
        "diagnosis, diagnoses, diagnostic, dx, icd, disease, diseases, disorder, symptom, symptoms, "
        "comorbidity, comorbidities, medication, medications, drug, drugs, prescription, dose, "
        "treatment, therapy, chemotherapy, surgery, allergy, allergies, vaccine, "
        "vaccination, pregnant, pregnancy, disability, mortality, deceased, died, hiv, hepatitis, "
        "cancer, tumor, tumour, malignant, malignancy, metastasis, diabetes, diabetic, "
        "hypertension, stroke, sepsis, depression, anxiety, smoker, smoking, alcohol, "
        "blood pressure, bp, sbp, dbp, heart rate, spo 2, bmi, glucose, hba 1 c, hba1c, "
        "cholesterol, hdl, ldl, creatinine, egfr, hemoglobin, haemoglobin, wbc, rbc, platelets, crp, "
        "troponin, biopsy, pathology, radiology, apache, sofa, gcs, diagnose, diagnosen, krankheit, "
        "befund, medikament, behandlung, raucher, schwangerschaft, diagnostico, enfermedad, "
        "maladie, traitement, tratamiento, fumador, fumeur, grossesse, embarazo"
    ),
    "sex-life-or-sexual-orientation": (
        "sexual, sexual orientation, sexuality, sex life, sexual partners, lgbt, lgbtq, "
        "sexuelle, orientierung sexuell, orientation sexuelle, orientacion sexual"
    ),
    "criminal-convictions": (
        "criminal, criminal record, conviction, convictions, convicted, offence, offences, offense, "
        "offenses, arrest, arrested, crime, crimes, felony, prison, prisoner, incarcerated, "
        "incarceration, parole, vorstrafe, vorstrafen, straftat, condamnation, "
        "casier judiciaire, antecedentes penales"
    ),
}

_BIRTH = "dob, birth, born, birthdate, birthday, birthyear, dateofbirth, geburtsdatum, geburtstag, "
_BIRTH += "geburtsjahr, jahrgang, naissance, nacimiento, yob"
_AGE = "age, ages, =alter, edad, idade"
_YEAR = "year, yr, yyyy, jahr, annee, ano, birthyear, geburtsjahr, jahrgang, yob"

_TEXT = "note, notes, comment, comments, remark, remarks, free text, freetext, narrative, report, reports, "
_TEXT += (
    "transcript, letter, summary, description, bemerkung, bemerkungen, kommentar, notiz, befund, "
)
_TEXT += (
    "befundtext, anamnese, freitext, arztbrief, remarque, commentaire, compte rendu, nota, notas, "
)
_TEXT += "comentario, observaciones, informe"


def suggested_identifier(name: str) -> HipaaIdentifier | None:
    """Which HIPAA identifier a column of this name may hold."""
    return _first(_IDENTIFIERS, name)


def suggested_category(name: str) -> Category | None:
    """Which special category of the GDPR a column of this name may hold."""
    return _first(_CATEGORIES, name)


def about_birth(name: str) -> bool:
    """Whether it may be a day or year of birth, which tells ages over 89."""
    return _matches(_BIRTH, name)


def about_age(name: str) -> bool:
    """Whether it may be an age in years."""
    return _matches(_AGE, name) and not about_birth(name)


def about_year(name: str) -> bool:
    """Whether it may be a year alone, rather than a finer part of a date."""
    return _matches(_YEAR, name)


def about_text(name: str) -> bool:
    """Whether it may be free text."""
    return _matches(_TEXT, name)


def _first(known: Mapping[Key, str], name: str) -> Key | None:
    return next((key for key, phrases in known.items() if _matches(phrases, name)), None)


def _matches(phrases: str, name: str) -> bool:
    # Capitals mostly begin words (dateOfBirth), but not always (HbA1c).
    return any(_found(phrases, _words(text)) for text in (name, name.lower()))


def _found(phrases: str, words: tuple[str, ...]) -> bool:
    for whole, phrase in _parsed(phrases):
        if whole and words == phrase:
            return True
        starts = range(len(words) - len(phrase) + 1)
        if not whole and any(words[start : start + len(phrase)] == phrase for start in starts):
            return True
    return False


@cache
def _parsed(phrases: str) -> tuple[tuple[bool, tuple[str, ...]], ...]:
    parts = (part.strip() for part in phrases.split(","))
    return tuple((part.startswith("="), _words(part)) for part in parts)


def _words(name: str) -> tuple[str, ...]:
    """``dateOfBirth_2`` -> date, of, birth, 2; without accents."""
    decomposed = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = decomposed.encode("ascii", "ignore").decode()
    return tuple(word.lower() for word in _WORD.findall(plain))
