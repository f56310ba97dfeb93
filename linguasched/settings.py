"""Django's settings. What the scheduler itself needs is `DISPATCH`, read from the TOML file and the environment."""

import contextlib
import os
import secrets
from pathlib import Path

import dj_database_url

from dispatch.conf import ConfigError, Problem
from linguasched import config, logs

BASE_DIR = Path(__file__).resolve().parent.parent

LINGUASCHED = config.load(os.environ)  #: the configuration with the origin of each value
DISPATCH = LINGUASCHED.config
DATA_DIR = LINGUASCHED.data_dir
try:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
except OSError as error:
    advice = f"cannot be used as a folder ({error.strerror}); name one that this user may write to"
    raise ConfigError([Problem("LINGUASCHED_DATA_DIR", str(DATA_DIR), advice)]) from error


def _secret_key(folder: Path) -> str:
    """The key of this data dir, made on first use; of several instances that start at once, one makes it for all."""
    path = folder / "secret_key"
    if not path.exists():
        draft = folder / f".secret_key.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(64))
        with contextlib.suppress(FileExistsError):  # another instance was faster: its key counts
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()


SECRET_KEY = os.environ.get("LINGUASCHED_SECRET_KEY") or _secret_key(DATA_DIR)
DEBUG = os.environ.get("LINGUASCHED_DEBUG") == "1"
ALLOWED_HOSTS = [
    host.strip()
    for host in os.environ.get("LINGUASCHED_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
    if host.strip()
]

INSTALLED_APPS = [
    "dispatch",
    "pools",
    "ops",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "django_prometheus",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "linguasched.urls"
ASGI_APPLICATION = "linguasched.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

if os.environ.get("DATABASE_URL"):
    try:
        DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"])}
    except ValueError as error:
        # The value is left out of the message: it holds a password.
        raise ConfigError([Problem("DATABASE_URL", None, f"is no database address: {error}")]) from error
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(DATA_DIR / "linguasched.sqlite3"),
            # Instances on one host may share the file: readers wait for nobody, writers for each other.
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
# Static files are served from where the apps keep them: no collectstatic before the first start.
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 100,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {"TITLE": "linguasched"}

LOGGING = logs.choose(os.environ)
LOGGING_CONFIG = "linguasched.logs.configure"
