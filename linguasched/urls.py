"""Every HTTP door. Each app brings its own list; this file says under which path it hangs."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("django_prometheus.urls")),  # /metrics
    path("admin/", admin.site.urls),
]
