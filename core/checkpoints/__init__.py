"""Files of models, also of ImgiNav and diffusers, and networks loaded from them. May import models and below."""
