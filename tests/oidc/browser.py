"""A browser and its user: browser.py URL NAME DIRECTORY. Goes to the page, fills in and sends whatever form comes, as this
user, and prints the last page. The directory has certificates for TLS."""
import http.cookiejar
import ssl
import sys
import urllib.parse
import urllib.request
from html.parser import HTMLParser


class Forms(HTMLParser):
    """The page's forms: where each goes, and its fields."""

    def __init__(self):
        super().__init__()
        self.forms = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.forms.append((attributes.get("action", ""), {}))
        elif tag in ("input", "button") and self.forms and attributes.get("name"):
            self.forms[-1][1][attributes["name"]] = attributes.get("value") or ""


url, name, directory = sys.argv[1:]
tls = ssl.create_default_context(cafile=f"{directory}/ca.pem")
tls.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
opener = urllib.request.build_opener(cookies, urllib.request.HTTPSHandler(context=tls), urllib.request.ProxyHandler({}))
data = None
for _ in range(10):
    with opener.open(url, data, timeout=30) as answer:
        url, text = answer.url, answer.read().decode()
    page = Forms()
    page.feed(text)
    if not page.forms:
        break
    action, fields = page.forms[0]
    # The button that only leaves.
    fields.pop("abort", None)
    for field in ("login", "password"):
        if field in fields:
            fields[field] = name
    url = urllib.parse.urljoin(url, action)
    data = urllib.parse.urlencode(fields).encode()
print(text)
