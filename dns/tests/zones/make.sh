#!/usr/bin/env bash
# Makes the signed zones beside this file anew, with ldns-signzone (ldnsutils) and dnssec-signzone
# (bind9-utils), so that two signers which are not ours have agreed on what is right. Signatures are
# valid from 2026-01-01 to 2037-12-31 (ldns reads times after 2038-01-19 as past); the
# tests say what time it is. The keys are thrown away.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

begin=20260101000000
end=20371231000000

# key NAME ALGORITHM [BITS]: one key that signs all, and its DS in NAME.ds
key() {
    dnssec-keygen -q -f KSK -a "$2" ${3:+-b "$3"} zone.example
}

ds() {
    for key in "${@:2}"; do
        dnssec-dsfromkey -2 "$key"
        dnssec-dsfromkey -a SHA-384 "$key"
    done >"$here/$1.ds"
}

# The types that the tests' parser does not know as text.
uninterpreted() {
    sed -E -e '/^;/d' \
        -e 's/\s(AFSDB|KX)\s+1 Mail\.zone\.example\.$/ \1 \\# 21 0001044d61696c047a6f6e65076578616d706c6500/'
}

# bind NAME KEYS OPTIONS [ZONE-KEY]: a zone signed by BIND, with the keys signing all, or with them
# signing the keys and the zone key signing the rest
bind() {
    local keys=() key
    for key in $2; do keys+=(-k "$key"); done
    # shellcheck disable=SC2086
    cat "$here/plain.zone" $(printf '%s.key ' $2 ${4:-}) >unsigned
    # shellcheck disable=SC2086
    dnssec-signzone -q $([ -n "${4:-}" ] || echo -z) -o zone.example -O full -s $begin -e $end -x -f signed ${3:-} \
        "${keys[@]}" unsigned ${4:-} >/dev/null
    ds "$1" $2
    { echo "; made by make.sh with dnssec-signzone ${3:-}"; uninterpreted <signed; } >"$here/$1.zone"
}

# ldns NAME KEYS OPTIONS [PLAIN]: a zone signed by ldns
ldns() {
    # shellcheck disable=SC2086
    ldns-signzone -i $begin -e $end -o zone.example -f signed ${3:-} "$here/${4:-plain}.zone" $2
    ds "$1" $2
    { echo "; made by make.sh with ldns-signzone ${3:-}"; uninterpreted <signed; } >"$here/$1.zone"
}

# steps NAME KEY: two versions of a zone one after the other, signed by ldns with a ZONEMD. The key is
# RSA, whose signatures are the same for the same records, so that little is other between them.
steps() {
    sed -e 's/2026010100/2026010101/' -e '/^_dmarc/d' -e 's/192\.0\.2\.25$/192.0.2.77/' \
        -e '$a added 3600 IN TXT "by the second version"' "$here/plain.zone" >"$work/second.zone"
    ldns-signzone -i $begin -e $end -o zone.example -f first.signed -z 1:1 "$here/plain.zone" "$2"
    ldns-signzone -i $begin -e $end -o zone.example -f second.signed -z 1:1 "$work/second.zone" "$2"
    ds "$1" "$2"
    for version in first second; do
        { echo "; made by make.sh with ldns-signzone"; uninterpreted <$version.signed; } >"$here/$1-$version.zone"
    done
}

p256=$(key a ECDSAP256SHA256)
p256b=$(key a ECDSAP256SHA256)
p384=$(key a ECDSAP384SHA384)
ed=$(key a ED25519)
rsa=$(key a RSASHA256 2048)
zone_key=$(dnssec-keygen -q -a ECDSAP256SHA256 zone.example)
rsa512=$(key a RSASHA512 2048)

ldns nsec-p256-zonemd "$p256" "-z 1:1 -z 1:2"
ldns nsec3-p256-zonemd "$p256" "-n -t 0 -z 1:1"
ldns small-nsec "$p256" "-z 1:1" small
ldns small-nsec3 "$p256" "-n -t 0 -z 1:1" small
ldns nsec3-iterations "$p256" "-n -t 101 -s aabb"
bind nsec-p256 "$p256"
bind nsec3-p256 "$p256" "-3 -"
bind nsec3-optout-p256 "$p256" "-3 aabbccdd -H 10 -A"
bind nsec-rsa256 "$rsa"
bind nsec3-rsa512 "$rsa512" "-3 -"
bind nsec-p384 "$p384"
bind nsec-ed25519 "$ed"
bind nsec-two-algorithms "$p256 $ed"
bind nsec-two-keys "$p256 $p256b"
bind nsec-split "$p256" "" "$zone_key"
steps steps-rsa256 "$rsa"
