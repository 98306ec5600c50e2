#!/usr/bin/env python3
"""The signing suite of ARC's draft: suite.py DATA COMMAND. Seals each message with the suite's key and
compares every tag. The signature of the message is compared, too, for RSA gives one for one text. That
of the seal covers the folds of the fields, which are the sealer's own: dkimpy verifies it.

COMMAND takes a case as a line of JSON and gives back the three fields. Exit status 1 at a difference."""
import base64, json, re, subprocess, sys
import dkim, yaml


def tags(text):
    out = {}
    for part in text.strip().rstrip(';').split(';'):
        name, _, value = part.strip().partition('=')
        out[name.strip()] = re.sub(r'\s+', '', value)
    return out


def results(text):
    return re.sub(r'\s+', ' ', text).strip()


bad = count = 0
for suite in yaml.safe_load_all(open(sys.argv[1])):
    for name, case in (suite or {}).get('tests', {}).items():
        message = case['message'].replace('\r\n', '\n').replace('\n', '\r\n')
        found = re.search(r'(?im)^authentication-results:((?:.*\r\n)(?:[ \t].*\r\n)*)', message)
        line = json.dumps({
            'message': base64.b64encode(message.encode()).decode(), 'results': found.group(1).strip(),
            'names': case['sig-headers'], 'now': int(case['t']), 'domain': suite['domain'],
            'selector': suite['sel'], 'key': suite['privatekey']})
        out = subprocess.run(sys.argv[2:], input=line, capture_output=True, text=True)
        fields = dict(field.split(':', 1) for field in json.loads(out.stdout or '[]'))
        count += 1
        texts = {name + '.': text.replace('\n', '').encode() for name, text in suite['txt-records'].items()}
        sealed = ''.join('%s:%s\r\n' % field for field in fields.items()) + message
        verdict = dkim.arc_verify(sealed.encode(), dnsfunc=lambda name, timeout=5: texts[name.decode()])
        if verdict[0] != b'pass':
            bad += 1
            print('%s: dkimpy says %s' % (name, verdict))
        for field, key, read in (('ARC-Seal', 'AS', tags), ('ARC-Message-Signature', 'AMS', tags),
                                 ('ARC-Authentication-Results', 'AAR', results)):
            is_, due = read(fields.get(field, '')), read(case[key])
            if field == 'ARC-Seal':
                is_.pop('b', None), due.pop('b')
            if is_ != due:
                bad += 1
                print('%s, %s:\n  is  %s\n  due %s\n%s' % (name, field, is_, due, out.stderr))
print('%d cases, %d differences' % (count, bad))
sys.exit(bad != 0)
