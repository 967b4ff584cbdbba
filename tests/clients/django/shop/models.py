from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100, blank=True)
    photo = models.ImageField(upload_to="products/%Y", blank=True)

    @property
    def sendimage_ref(self):
        return f"media/{self.photo.name}"
