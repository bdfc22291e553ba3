"""A stub of the STS of AWS and of Alibaba Cloud. It is not a cloud.

It verifies calls as the clouds document it: parameters, and signature, issuer, audience, lifetime and subject of the token.
The keys and the issuer are those of the cluster, from its OIDC discovery. The argument is the subject that the roles trust.
The name of a role selects its behaviour, see ROLES. GET /calls returns the calls as JSON. POST /release ends the wait of
calls for the role `held`.
"""

import datetime, json, re, ssl, sys, threading, time, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

SUBJECT = sys.argv[1]
ROLES = {
    "web": {},
    "admin": {},
    "held": {},
    "denied": {"subject": "system:serviceaccount:other:default"},
    "unknown-audience": {"audience": "other"},
    "expired": {"clock": 86400},
    "throttled": {"error": "throttled"},
    "unavailable": {"error": "unavailable"},
}
AWS_ERRORS = {
    "invalid-call": (400, "ValidationError"),
    "no-role": (403, "AccessDenied"),
    "denied": (403, "AccessDenied"),
    "invalid-token": (400, "InvalidIdentityToken"),
    "expired": (400, "ExpiredTokenException"),
    "throttled": (400, "Throttling"),
    "unavailable": (500, "InternalFailure"),
}
ALIYUN_ERRORS = {
    "invalid-call": (400, "InvalidParameter"),
    "no-role": (404, "EntityNotExist.Role"),
    "denied": (403, "AuthenticationFail.NoPermission"),
    "invalid-token": (400, "AuthenticationFail.OIDCToken.Invalid"),
    "expired": (400, "AuthenticationFail.OIDCToken.Expired"),
    "throttled": (400, "Throttling.User"),
    "unavailable": (500, "InternalError"),
}
AWS_XMLNS = "https://sts.amazonaws.com/doc/2011-06-15/"
ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
calls = []
released = threading.Event()


class CallError(Exception):
    """A rejected call. The argument is a key of AWS_ERRORS and ALIYUN_ERRORS."""


def discover(path):
    context = ssl.create_default_context(cafile=f"{ACCOUNT_DIR}/ca.crt")
    with open(f"{ACCOUNT_DIR}/token") as file:
        headers = {"Authorization": f"Bearer {file.read()}"}
    request = urllib.request.Request(f"https://kubernetes.default.svc{path}", headers=headers)
    with urllib.request.urlopen(request, context=context, timeout=30) as response:
        return json.load(response)


ISSUER = discover("/.well-known/openid-configuration")["issuer"]
KEYS = KeySet.import_key_set(discover("/openid/v1/jwks"))


def verify_token(token, audience, role):
    try:
        claims = jwt.decode(token, KEYS, algorithms=["RS256", "ES256"]).claims
    except (JoseError, ValueError) as error:
        raise CallError("invalid-token") from error
    if claims["iss"] != ISSUER or claims["aud"] != [role.get("audience", audience)]:
        raise CallError("invalid-token")
    if not claims["nbf"] - 60 <= time.time() + role.get("clock", 0) < claims["exp"]:
        raise CallError("expired")
    if claims["sub"] != role.get("subject", SUBJECT):
        raise CallError("denied")


def create_session(form, arn_pattern, token, audience, duration_range):
    """Verifies a call. Returns the values of its response."""
    arn = re.fullmatch(arn_pattern, form.get("RoleArn", ""))
    session = form.get("RoleSessionName", "")
    duration = int(form.get("DurationSeconds", "3600"))
    if not arn or not re.fullmatch(r"[A-Za-z0-9.@_=,+-]{2,64}", session) or duration not in duration_range:
        raise CallError("invalid-call")
    role = ROLES.get(arn[1])
    calls.append({"role": arn[1], "session": session})
    if role is None:
        raise CallError("no-role")
    verify_token(token, audience, role)
    if "error" in role:
        raise CallError(role["error"])
    if arn[1] == "held" and not released.wait(8):
        raise CallError("unavailable")
    now = datetime.datetime.now(datetime.timezone.utc)
    expiration = (now + datetime.timedelta(seconds=duration)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"key": arn[1], "secret": f"secret-of-{arn[1]}", "token": f"token-of-{session}", "expiration": expiration}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-requestid", "stub-request")
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        self.respond(200, "application/json", json.dumps(calls))

    def do_POST(self):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        form, query = ({key: values[0] for key, values in parse_qs(text).items()} for text in (body, url.query))
        if url.path == "/release":
            released.set()
            self.respond(200, "text/plain", "")
        elif "Action" in query:
            self.aliyun(query, form)
        else:
            self.aws(form)

    def aws(self, form):
        action = "AssumeRoleWithWebIdentity"
        try:
            if (form.get("Action"), form.get("Version")) != (action, "2011-06-15") or "Authorization" in self.headers:
                raise CallError("invalid-call")
            pattern, durations = r"arn:aws:iam::\d{12}:role/([\w+=,.@-]+)", range(900, 43201)
            made = create_session(form, pattern, form["WebIdentityToken"], "sts.amazonaws.com", durations)
        except CallError as error:
            status, code = AWS_ERRORS[error.args[0]]
            detail = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>from the stub</Message></Error>"
            return self.respond(status, "text/xml", f'<ErrorResponse xmlns="{AWS_XMLNS}">{detail}</ErrorResponse>')
        credentials = (
            f"<AccessKeyId>ASIA{made['key']}</AccessKeyId><SecretAccessKey>{made['secret']}</SecretAccessKey>"
            f"<SessionToken>{made['token']}</SessionToken><Expiration>{made['expiration']}</Expiration>"
        )
        result = f"<{action}Result><Credentials>{credentials}</Credentials></{action}Result>"
        self.respond(200, "text/xml", f'<{action}Response xmlns="{AWS_XMLNS}">{result}</{action}Response>')

    def aliyun(self, query, form):
        try:
            sent = datetime.datetime.strptime(query.get("Timestamp", ""), "%Y-%m-%dT%H:%M:%SZ")
            age = time.time() - sent.replace(tzinfo=datetime.timezone.utc).timestamp()
            call = (query.get("Action"), query.get("Version"), query.get("Format"))
            provider = re.fullmatch(r"acs:ram::\d{16}:oidc-provider/[\w.-]+", form.get("OIDCProviderArn", ""))
            if call != ("AssumeRoleWithOIDC", "2015-04-01", "JSON") or abs(age) > 900 or not provider:
                raise CallError("invalid-call")
            pattern, durations = r"acs:ram::\d{16}:role/([\w.-]+)", range(900, 43201)
            made = create_session(form, pattern, form["OIDCToken"], "sts.aliyuncs.com", durations)
        except CallError as error:
            status, code = ALIYUN_ERRORS[error.args[0]]
            document = {"RequestId": "stub-request", "HostId": "stub", "Code": code, "Message": "from the stub"}
            return self.respond(status, "application/json", json.dumps(document))
        credentials = {
            "AccessKeyId": f"STS.{made['key']}",
            "AccessKeySecret": made["secret"],
            "SecurityToken": made["token"],
            "Expiration": made["expiration"],
        }
        self.respond(200, "application/json", json.dumps({"RequestId": "stub-request", "Credentials": credentials}))


server = ThreadingHTTPServer(("", 8080), Handler)
print("listening", flush=True)
server.serve_forever()
