#!/usr/bin/env python3
"""What pyspf, dkimpy and authres say of cases that come as lines of JSON; an answer is a line of JSON.

Called by fsmtp-oracles, which makes the cases. All DNS is in the case; nothing is asked. An oracle
that ends with an exception of its own gives the verdict "crash", with its text."""
import base64, json, logging, sys, time, warnings

warnings.simplefilter('ignore')
logging.disable(logging.CRITICAL)
import authres, dkim, spf


class Zone:
    def __init__(self, zone):
        self.records, self.failing, self.wild = zone['records'], set(zone['failing']), zone['wild']

    def at(self, name):
        name = name.lower().rstrip('.')
        if name in self.failing:
            raise spf.TempError('DNS SERVFAIL')
        found = self.records.get(name)
        if found is None and name.endswith(self.wild):
            found = [['A', '127.0.0.2']]
        return found or []

    def lookup(self, name, kind, strict=True, timeout=20):
        """As pyspf asks: what is there, aliases as such; pyspf follows them."""
        out = []
        for what, value in self.at(name):
            if what == 'CNAME':
                return [((name, 'CNAME'), value)]
            if what != kind:
                continue
            if what == 'TXT':
                value = (value.encode('latin-1'),)
            elif what == 'MX':
                value = (value[0], value[1])
            out.append(((name, what), value))
        return out

    def texts(self, name):
        for _ in range(8):
            found = self.at(name)
            alias = [value for what, value in found if what == 'CNAME']
            if not alias:
                return [value.encode('latin-1') for what, value in found if what == 'TXT']
            name = alias[0]
        return []

    def text(self, name, timeout=5):
        """As dkimpy asks: the first text, or none."""
        if isinstance(name, bytes):
            name = name.decode('latin-1')
        try:
            return (self.texts(name) or [None])[0]
        except spf.TempError as error:
            raise dkim.DnsTimeoutError(str(error))


def judge_spf(case):
    zone = Zone(case['zone'])
    spf.DNSLookup = zone.lookup
    try:
        query = spf.query(case['ip'], case['sender'], case['helo'], receiver=case['receiver'], strict=True)
        verdict, _, why = query.check()
        return {'verdict': verdict, 'why': str(why)}
    except Exception as error:
        return {'verdict': 'crash', 'why': '%s: %s' % (type(error).__name__, error)}


class Clock:
    """dkimpy asks time.time(); everything else of the module stays."""

    def __init__(self, now):
        self.now = now

    def time(self):
        return self.now

    def __getattr__(self, name):
        return getattr(time, name)


def judge_dkim(case):
    zone = Zone(case['zone'])
    dkim.time = Clock(case['now'])
    message = base64.b64decode(case['message'])
    verdicts, whys = [], []
    for index in range(case['signatures']):
        try:
            good = dkim.DKIM(message).verify(idx=index, dnsfunc=zone.text)
            verdicts.append('pass' if good else 'no')
            whys.append('')
        except dkim.DKIMException as error:
            verdicts.append('no')
            whys.append('%s: %s' % (type(error).__name__, error))
        except Exception as error:
            verdicts.append('crash')
            whys.append('%s: %s' % (type(error).__name__, error))
    return {'verdicts': verdicts, 'why': ', '.join(whys)}


def judge_arc(case):
    zone = Zone(case['zone'])
    dkim.time = Clock(case['now'])
    try:
        verdict, _, why = dkim.ARC(base64.b64decode(case['message'])).verify(dnsfunc=zone.text)
        # None is a chain that somebody has sealed as failed.
        return {'verdict': (verdict or b'fail').decode(), 'why': str(why)}
    except dkim.DKIMException as error:
        return {'verdict': 'fail', 'why': '%s: %s' % (type(error).__name__, error)}
    except Exception as error:
        return {'verdict': 'crash', 'why': '%s: %s' % (type(error).__name__, error)}


def judge_results(case):
    try:
        read = authres.AuthenticationResultsHeader.parse(case['field'].removesuffix('\r\n'))
    except Exception as error:
        return ['crash', '%s: %s' % (type(error).__name__, error)]
    properties = lambda one: [['%s.%s' % (p.type, p.name), p.value] for p in one.properties]
    found = [[one.method, one.result, properties(one)] for one in read.results]
    return [read.authserv_id, found]


JUDGES = {'spf': judge_spf, 'dkim': judge_dkim, 'arc': judge_arc, 'results': judge_results}
for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps(JUDGES[case['kind']](case)), flush=True)
